"""Evaluations and monitors: functions of frozen features or of a batch of embeddings."""
