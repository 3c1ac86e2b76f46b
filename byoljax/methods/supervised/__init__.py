"""Methods that learn from labels or from a teacher: probes, fine-tuning, distillation."""
