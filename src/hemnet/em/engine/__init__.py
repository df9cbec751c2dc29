"""How an iteration's passes over the features are computed: engines that agree, and the choice among them."""
