"""Songs mastered: a plan from the whole song, rendered without seams, true to its loudness."""
