"""Learner contract: Plan, Contribution, Learner, and what each is accounted for."""
