"""Rewards for grounded medical VQA: text in, numbers out, without verl, torch or Ray."""
