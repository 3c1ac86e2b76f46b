"""Evaluation protocols: an encoder and labelled data in, a result out."""
