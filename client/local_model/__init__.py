"""Local use of the federation's model at the site itself: predict, embed, explain, finetune.
Nothing is sent."""
