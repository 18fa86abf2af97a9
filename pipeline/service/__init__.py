"""A service that works on one song at a time for whoever asks by message: what it takes, does, says and keeps."""
