"""Networks that hear speech: voice activity, denoising, speakers, words, quality."""
