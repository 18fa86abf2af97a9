"""What becomes of turns and words together: clips, parts, subtitles."""
