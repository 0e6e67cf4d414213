"""TRAIN: text, batches, references and the loop."""
