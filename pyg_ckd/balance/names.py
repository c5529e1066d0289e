"""Names that the seam of strategies goes by."""

NO_OPTIONS = ("student", "teachers", "has", "view")
"""Arguments of an objective's constructor that are no options of the strategy."""
STEPS = {
    *("loss", "balance", "triple_weights", "backward", "forward_views", "before_validation", "epoch_statistics"),
    *("step_sizes", "ranked", "before_training", "begin_epoch", "read"),
    *("weigh", "add_terms", "statistics", "terms", "observe", "next_factors"),
}
"""Methods, those of wrappers and of paced objectives too, of which a strategy that overrides one must say whether it
needs a batch whole."""
