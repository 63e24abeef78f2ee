"""A page on the user's own machine that predicts the genres of uploaded or recorded music. It needs the extra `app`."""
