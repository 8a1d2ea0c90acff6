//! The command line, taken apart by hand.
//!
//! Four commands with a handful of options do not repay the build time of an argument parser. An argument that nobody
//! asked for is an error ([`Args::finish`]), never ignored.

use std::fmt;
use std::str::FromStr;

/// A command line that makes no sense; ends in exit code 64.
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl UsageError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The arguments that have not been asked for yet.
pub(crate) struct Args {
    rest: Vec<String>,
}

impl Args {
    pub(crate) fn from_env() -> Self {
        Self::new(
            std::env::args_os()
                .skip(1)
                .map(|arg| arg.to_string_lossy().into_owned()),
        )
    }

    pub(crate) fn new(args: impl IntoIterator<Item = String>) -> Self {
        Self {
            rest: args.into_iter().collect(),
        }
    }

    /// Takes the first argument when it is not an option.
    pub(crate) fn command(&mut self) -> Option<String> {
        let first_is_word = self.rest.first().is_some_and(|first| !first.starts_with('-'));
        first_is_word.then(|| self.rest.remove(0))
    }

    /// Takes `name`, and says whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|arg| arg != name);
        self.rest.len() != before
    }

    /// Takes `name VALUE` or `name=VALUE`.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>, UsageError> {
        let is_it = |arg: &String| {
            arg.strip_prefix(name)
                .is_some_and(|tail| tail.is_empty() || tail.starts_with('='))
        };
        let Some(at) = self.rest.iter().position(is_it) else {
            return Ok(None);
        };
        let arg = self.rest.remove(at);
        if let Some((_, value)) = arg.split_once('=') {
            return Ok(Some(value.to_owned()));
        }
        if at == self.rest.len() {
            return Err(UsageError::new(format!("{name} wants a value")));
        }
        Ok(Some(self.rest.remove(at)))
    }

    /// Takes `name N`, a whole number of at least 1.
    pub(crate) fn count<T: FromStr + PartialOrd + From<u8>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, UsageError> {
        let Some(text) = self.value(name)? else {
            return Ok(None);
        };
        match text.parse::<T>() {
            Ok(number) if number >= T::from(1) => Ok(Some(number)),
            _ => Err(UsageError::new(format!(
                "{name} {text}: a whole number of at least 1 is wanted"
            ))),
        }
    }

    /// Refuses what is left over.
    pub(crate) fn finish(self) -> Result<(), UsageError> {
        match self.rest.first() {
            None => Ok(()),
            Some(arg) => Err(UsageError::new(format!("unknown argument `{arg}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_come_in_any_order_and_both_spellings() {
        let mut args = args("test --only fmt --list --seconds=7");
        assert_eq!(args.command().as_deref(), Some("test"));
        assert_eq!(args.count::<u64>("--seconds").unwrap(), Some(7));
        assert_eq!(args.value("--only").unwrap().as_deref(), Some("fmt"));
        assert!(args.flag("--list"));
        args.finish().unwrap();
    }

    #[test]
    fn wrong_usage_names_the_argument() {
        let message = |result: Result<(), UsageError>| result.unwrap_err().to_string();
        assert_eq!(message(args("--lst").finish()), "unknown argument `--lst`");
        assert_eq!(
            message(args("--only").value("--only").map(drop)),
            "--only wants a value"
        );
        for bad in ["0", "-3", "ten", "1.5"] {
            let error = message(args(&format!("--runs {bad}")).count::<u32>("--runs").map(drop));
            assert_eq!(
                error,
                format!("--runs {bad}: a whole number of at least 1 is wanted")
            );
        }
    }

    #[test]
    fn an_option_is_no_command_and_a_prefix_is_no_option() {
        assert_eq!(args("--list").command(), None);
        assert_eq!(args("--only-one x").value("--only").unwrap(), None);
    }
}
