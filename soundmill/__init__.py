"""The command ``soundmill``. In a wheel this package also holds ``jobs/`` and ``conf/`` (see ``setup.py``)."""
