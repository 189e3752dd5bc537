"""The hostile run: attackers flood a bridge, and honest clients must notice nothing."""
