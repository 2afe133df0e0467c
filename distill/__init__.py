"""The RGB teacher, its feature cache keyed by view, and the distillation loss."""
