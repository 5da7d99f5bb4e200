"""No false alarm: `strong` attacks on trained networks of both of the paper's architectures pass every check."""

import numpy as np
import pytest
from attack_rows import row_set
from known_attacks import ON_M
from planted_faults import waves

from unmask_tf.attacks.evidence import checked_attack
from unmask_tf.attacks.module import logits_of
from unmask_tf.attacks.protocol import Target
from unmask_tf.attacks.threat_models import threat_model
from unmask_tf.report.soundness import unsound


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet50", "densenet121"])
def test_strong_attacks_on_a_trained_model_are_sound(architecture):
    import keras

    from unmask_tf.classifiers.build import build_classifier
    from unmask_tf.classifiers.classifier import Classifier
    from unmask_tf.classifiers.torch_port import to_torch

    keras.utils.set_random_seed(0)
    images, labels = waves(600, seed=1, size=32)
    model = build_classifier(architecture, 3, input_size=32, weights="random", seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    module, (test, truth) = None, waves(24, seed=2, size=32)
    for _ in range(8):
        model.fit(images, labels, batch_size=16, epochs=2, verbose=0)
        module = to_torch(model)
        accuracy = (logits_of(module, test).argmax(1) == truth).mean()
        if accuracy >= 0.9:
            break
    assert accuracy >= 0.9, "the network did not learn, so nothing was tested"

    records = [row_set(architecture, "none", 0, int(np.round(accuracy * 24)), 24, {})]
    for name in ON_M:
        for epsilon in (8, 16) if name.endswith("linf") else (300, 600):
            threat = threat_model(name, epsilon, preset="strong")
            attacked = checked_attack(Target(Classifier(model)), test, truth, threat, seed=7)
            failed = [check for check, holds in attacked.checks.items() if not holds]
            assert failed == [], (name, epsilon, attacked.threat.iterations)
            right = int((attacked.logits.argmax(axis=1) == truth).sum())
            records.append(row_set(architecture, name, epsilon, right, 24, attacked.checks))
    assert unsound(records) == {}
