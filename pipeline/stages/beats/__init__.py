"""The beats stage: beats, downbeats, meter and tempo by trained networks."""
