"""The attacks on M alone, which are Advertorch's; those that know K have tests of their own."""

from unmask_tf.attacks import ATTACKS

ON_M = [name for name, entry in ATTACKS.items() if entry.knows == {"M"} and entry.gradient]
