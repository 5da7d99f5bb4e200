"""Model K: Matterport's Mask R-CNN in Keras 3."""
