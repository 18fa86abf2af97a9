"""musicnn: tags of music and an embedding, from networks trained on MagnaTagATune and the Million Song Dataset."""
