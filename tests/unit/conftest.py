"""Property tests are about laws, not about time: a busy machine breaks none.

What a push must pass tries the same examples every time; `make fuzz` looks for new ones.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("vedette", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("vedette"), derandomize=False)
settings.load_profile("vedette")
