"""What becomes of a finished encoder: fine-tuning on labels, and distillation into a smaller one."""
