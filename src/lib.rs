//! gpushare
