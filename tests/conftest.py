"""Settings for every test: property tests have no time limits, since a busy machine is no failure."""

import os

from hypothesis import HealthCheck, settings

# As the command line does (`experiment.quiet.import_quietly`): trainings repeat to the last bit.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
