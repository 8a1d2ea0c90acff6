//! The command: build, gate, package, add up; with `--verify` once more in another folder, to compare.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use super::architecture::Architecture;
use super::build::{self, Place, Target};
use super::nfpm::{self, CONFIG, FORMATS, Package};
use super::{gate, standard_library};
use crate::args::{Args, UsageError};
use crate::workspace::{Workspace, stdout_of};

/// Beside the packages.
const SUMS: &str = "SHA256SUMS";

#[derive(Debug)]
pub(crate) struct Options {
    architectures: Vec<Architecture>,
    verify: bool,
    binary: Option<PathBuf>,
    version: String,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let target = args
            .value("--target")?
            .map(|name| Architecture::parse(&name))
            .transpose()?;
        let binary = args.value("--binary")?.map(PathBuf::from);
        let verify = args.flag("--verify");
        if verify && binary.is_some() {
            return Err(UsageError::new(
                "--verify builds, and --binary is built: choose one",
            ));
        }
        let architectures = match (target, &binary) {
            (Some(one), _) => vec![one],
            (None, Some(_)) => vec![Architecture::of_this_machine()],
            (None, None) => Architecture::ALL.to_vec(),
        };
        let version = args.value("--package-version")?;
        args.finish()?;
        Ok(Self {
            architectures,
            verify,
            binary,
            // One version for the whole workspace.
            version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
        })
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<ExitCode> {
    let folder = workspace.target("dist");
    start_afresh(&folder)?;
    let here = Place {
        sources: workspace.path(""),
        output: folder.join("build"),
    };
    let mut made = Vec::new();
    let mut missing = Vec::new();
    for architecture in &options.architectures {
        // One that cannot be had does not keep the other from being made.
        match make(workspace, options, *architecture, &here, &folder) {
            Ok(files) => made.extend(files),
            Err(error) => missing.push(format!("{}: {error:#}", architecture.name())),
        }
    }
    if !made.is_empty() {
        print!(
            "\n{}",
            table(&folder, &made, &add_up(workspace, &folder, &made)?)?
        );
    }
    ensure!(
        missing.is_empty(),
        "not everything could be made\n{}",
        missing.join("\n")
    );
    if options.verify {
        verify(workspace, options, &folder, &made)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what an earlier run has left for others to take.
fn start_afresh(folder: &Path) -> anyhow::Result<()> {
    fs_err::create_dir_all(folder)?;
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let ours = FORMATS
            .iter()
            .any(|format| path.extension().is_some_and(|found| found == *format));
        if ours || path.ends_with(SUMS) {
            fs_err::remove_file(&path)?;
        }
    }
    Ok(())
}

/// One architecture: the names of its files in this folder, the binary first.
fn make(
    workspace: &Workspace,
    options: &Options,
    architecture: Architecture,
    place: &Place,
    folder: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let built = if let Some(binary) = &options.binary {
        std::path::absolute(binary)?
    } else {
        println!("\n== {}", architecture.name());
        let compiler = standard_library::prepare(workspace, architecture)?;
        let target = Target {
            architecture,
            compiler,
        };
        build::release(workspace, place, &target)?
    };
    let wants =
        gate::pass(&fs_err::read(&built)?, architecture).with_context(|| format!("{}", built.display()))?;
    println!("{}: {wants}", built.display());
    let binary = PathBuf::from(architecture.name()).join("gpushare");
    fs_err::create_dir_all(folder.join(architecture.name()))?;
    fs_err::copy(&built, folder.join(&binary))?;
    let package = Package {
        sources: &place.sources,
        binary: &built,
        config: &place.sources.join(CONFIG),
        architecture,
        version: &options.version,
        epoch: &nfpm::epoch(workspace)?,
    };
    for format in FORMATS {
        package.make(workspace, format, &folder.join(package.file_name(format)))?;
    }
    Ok(std::iter::once(binary)
        .chain(FORMATS.map(|format| package.file_name(format)))
        .collect())
}

/// The SHA-256 of each file, in order; those of the packages also stand in `SHA256SUMS`, as `sha256sum --check` wants them.
fn add_up(workspace: &Workspace, folder: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let said = stdout_of(
        workspace
            .program("sha256sum")
            .current_dir(folder)
            .arg("--")
            .args(files),
    )?;
    let packages = said
        .lines()
        .filter(|line| FORMATS.iter().any(|format| line.ends_with(&format!(".{format}"))));
    let sums: String = packages.flat_map(|line| [line, "\n"]).collect();
    fs_err::write(folder.join(SUMS), sums)?;
    let sums: Option<Vec<String>> = said
        .lines()
        .map(|line| Some(line.split_once(' ')?.0.to_owned()))
        .collect();
    sums.context("understand the output of sha256sum")
}

fn table(folder: &Path, files: &[PathBuf], sums: &[String]) -> anyhow::Result<String> {
    let width = files
        .iter()
        .map(|file| file.as_os_str().len())
        .max()
        .unwrap_or_default();
    let mut text = format!("{:width$}  {:>10}  SHA256\n", "FILE", "BYTES");
    for (file, sum) in files.iter().zip(sums) {
        let bytes = fs_err::metadata(folder.join(file))?.len();
        let _ = writeln!(text, "{:width$}  {bytes:>10}  {sum}", file.display());
    }
    Ok(text)
}

/// Makes everything once more, of a copy of the sources in another folder and with nothing built before.
fn verify(workspace: &Workspace, options: &Options, folder: &Path, made: &[PathBuf]) -> anyhow::Result<()> {
    println!("\n== everything once more, in another folder");
    let copy = tempfile::Builder::new().prefix("another-").tempdir_in(folder)?;
    let place = Place {
        sources: copy.path().join("sources"),
        output: copy.path().join("output"),
    };
    copy_sources(workspace, &place.sources)?;
    let again = copy.path().join("packages");
    fs_err::create_dir_all(&again)?;
    for architecture in &options.architectures {
        make(workspace, options, *architecture, &place, &again)?;
    }
    let mut different = Vec::new();
    for file in made {
        if fs_err::read(folder.join(file))? != fs_err::read(again.join(file))? {
            different.push(file.display().to_string());
        }
    }
    if different.is_empty() {
        println!("the same to the last byte: {} files", made.len());
        return Ok(());
    }
    let kept = copy.keep();
    bail!(
        "built a second time these differ: {}; the second ones are in {}",
        different.join(", "),
        kept.display()
    )
}

fn copy_sources(workspace: &Workspace, to: &Path) -> anyhow::Result<()> {
    for file in workspace.files()? {
        let copy = to.join(&file);
        fs_err::create_dir_all(copy.parent().expect("it was joined one line above"))?;
        fs_err::copy(workspace.path(&file), copy)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, UsageError> {
        Options::parse(Args::new(line.split_whitespace().map(str::to_owned)))
    }

    #[test]
    fn both_architectures_are_built_unless_one_is_chosen_or_built_already() {
        let chosen = |line: &str| parse(line).unwrap().architectures;
        assert_eq!(chosen(""), Architecture::ALL);
        assert_eq!(chosen("--target aarch64"), [Architecture::Aarch64]);
        assert_eq!(
            chosen("--binary target/debug/gpushare"),
            [Architecture::of_this_machine()]
        );
        assert_eq!(chosen("--binary x --target=aarch64"), [Architecture::Aarch64]);
        assert_eq!(parse("").unwrap().version, env!("CARGO_PKG_VERSION"));
        assert_eq!(parse("--package-version 1.2.3").unwrap().version, "1.2.3");
        for wrong in ["--target arm64", "--verify --binary x", "--binary", "--verfy"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_earlier_runs_packages_are_gone_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["gpushare-1.rpm", "gpushare_1.deb", SUMS, "notes"] {
            fs_err::write(dir.path().join(name), "").unwrap();
        }
        start_afresh(dir.path()).unwrap();
        let left: Vec<_> = fs_err::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["notes"]);
    }

    #[test]
    fn sums_of_packages_can_be_checked_and_the_table_has_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = [PathBuf::from("gpushare"), PathBuf::from("gpushare.rpm")];
        for file in &files {
            fs_err::write(dir.path().join(file), "abc").unwrap();
        }
        let workspace = Workspace::find().unwrap();
        let sums = add_up(&workspace, dir.path(), &files).unwrap();
        // Of "abc", as FIPS 180-4 has it.
        assert!(
            sums.iter().all(|sum| sum.starts_with("ba7816bf8f01cfea")),
            "{sums:?}"
        );
        let written = fs_err::read_to_string(dir.path().join(SUMS)).unwrap();
        assert_eq!(written, format!("{}  gpushare.rpm\n", sums[1]));
        let table = table(dir.path(), &files, &sums).unwrap();
        assert_eq!(
            table.lines().nth(1).unwrap(),
            format!("gpushare               3  {}", sums[0])
        );
    }
}
