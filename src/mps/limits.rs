//! How many clients a GPU takes, and what a slice of its memory is too small for. Pure.
