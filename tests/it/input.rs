//! Bad input: each mistake is named, with the mend and the right exit code.
