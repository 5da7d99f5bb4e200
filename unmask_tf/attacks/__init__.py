"""Attacks on M, on K, or on both.

`ATTACKS` is the table, `threat_model` sets one up, `evidence.checked_attack` runs and checks it.
"""

from unmask_tf.attacks import adaptive as _adaptive  # noqa: F401  (it fills the table)
from unmask_tf.attacks import advertorch_entries as _entries  # noqa: F401  (it too)
from unmask_tf.attacks import art_entries as _art_entries  # noqa: F401  (it too)
from unmask_tf.attacks import black_box as _black_box  # noqa: F401  (it too)
from unmask_tf.attacks.protocol import ATTACKS, Attack, AttackResult, Norm, Target
from unmask_tf.attacks.threat_models import ThreatModel, threat_model

__all__ = ["ATTACKS", "Attack", "AttackResult", "Norm", "Target", "ThreatModel", "threat_model"]
