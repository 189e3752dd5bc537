"""The hostile run: a bridge among strangers, and honest clients that notice nothing of them."""
