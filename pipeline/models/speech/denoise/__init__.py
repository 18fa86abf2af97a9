"""Noise reduction of speech behind `pipeline.models.speech.base.Denoiser`; one backend per file.

``limit_db`` means the same to all of them. With ``x`` the recording, ``y`` what the backend makes of it at full
strength and ``g = 10 ** (-limit_db / 20)``, what comes out is ``g * x + (1 - g) * y``, sample by sample, both in step:
what the backend would remove altogether is ``limit_db`` softer, and what it leaves alone stays as it is. From 100 dB
on, and with None, ``y`` itself comes out.

Every backend works at its own ``sample_rate``; it is handed audio at that rate.
"""
