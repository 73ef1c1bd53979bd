"""Property tests are about laws, not about time: a busy machine breaks none."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("vedette", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vedette")
