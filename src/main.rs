//! gpushare
fn main() {}
