"""Rivals that train otherwise than by distillation, on TRL's SFTTrainer and GRPOTrainer (docs/baselines.md)."""
