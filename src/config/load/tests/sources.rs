//! Files and variables that are missing, broken, hostile or not ours.

use super::*;

#[test]
fn a_named_file_must_be_there() {
    let sources = Sources {
        file: Some(NOWHERE.into()),
        ..Sources::default()
    };
    assert_eq!(
        only_problem(&load_text(&sources).unwrap_err()),
        format!("{NOWHERE}: does not exist; create it, or leave --config out to use the built-in defaults")
    );
}

#[test]
fn a_default_file_that_is_there_but_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (circle, dangling) = (dir.path().join("circle"), dir.path().join("dangling"));
    symlink(&circle, &circle).unwrap();
    symlink(dir.path().join("gone"), &dangling).unwrap();
    for (path, expected) in [
        (dir.path(), "is not a regular file; name a TOML file"),
        (Path::new("/dev/zero"), "is not a regular file; name a TOML file"),
        (&circle, "cannot be read: filesystem loop"),
        (&dangling, "does not exist"),
    ] {
        let text = load_with(&Sources::default(), path).unwrap_err().to_string();
        assert!(
            only_problem(&text).starts_with(&format!("{}: {expected}", path.display())),
            "{text}"
        );
    }
}

#[test]
fn syntax_errors_name_line_and_column_and_the_other_sources_are_judged_too() {
    let file = ConfigFile::new("[sample]\ninterval = 1s\n");
    let mut sources = set(&["publish.max_series=0"]);
    sources.file = Some(file.path());
    let text = file.cut(&load_text(&sources).unwrap_err());
    assert!(text.contains("\n  config.toml:2:12: is not TOML: "), "{text}");
    assert!(
        text.contains("\n  publish.max_series = 0: is out of range"),
        "{text}"
    );

    let problem = file_problem("[gpu]\nenabled = true\nenabled = true\n");
    assert!(
        problem.starts_with("config.toml:3:1: is not TOML: duplicate key"),
        "{problem}"
    );
}

#[test]
fn a_broken_file_makes_no_contradiction_up() {
    let file = ConfigFile::new("[slices]\nenabled = false\n[");
    let mut sources = set(&["mps.enabled=false"]);
    sources.file = Some(file.path());
    let text = load_text(&sources).unwrap_err();
    assert!(!text.contains("mps.enabled"), "{text}");
}

#[test]
fn other_encodings_and_other_files_are_refused() {
    let latin1 = ConfigFile::new(b"[node]\ncluster = \"caf\xe9\"\n")
        .load()
        .unwrap_err();
    assert_eq!(
        only_problem(&latin1),
        "config.toml:2:15: is not UTF-8; save the file as UTF-8"
    );
    let huge = file_problem(&"#".repeat(64 * 1024 + 1));
    assert!(huge.starts_with("config.toml: is larger than 64 KiB"), "{huge}");
}

#[test]
fn hostile_input_neither_panics_nor_hangs() {
    let deep_key = "a.".repeat(30_000) + "b";
    let text = load_text(&set(&[
        &format!("{deep_key}=1"),
        "=",
        ".=1",
        "publish.=1",
        &deep_key,
    ]))
    .unwrap_err();
    assert!(
        text.starts_with("the configuration has 5 problems:\n") && text.len() < 1000,
        "{text}"
    );
    assert!(ConfigFile::new(format!("{deep_key} = 1\n")).load().is_err());
    assert!(
        ConfigFile::new(format!("a = {}", "[".repeat(60_000)))
            .load()
            .is_err()
    );
    let index = file_problem("\"publish[999999999999]\" = 1\n");
    assert!(index.starts_with("publish[999999999999]: unknown key"), "{index}");
    let many = (0..2_000)
        .map(|n| format!("k{n} = 1"))
        .collect::<Vec<_>>()
        .join("\n");
    let text = ConfigFile::new(many).load().unwrap_err();
    assert!(text.starts_with("the configuration has 2000 problems:\n"));
}

#[test]
fn a_variable_that_is_not_utf8_is_refused_and_others_are_left_alone() {
    let variables = [
        (
            OsString::from("GPUSHARE__NODE__CLUSTER"),
            OsString::from_vec(b"caf\xe9".to_vec()),
        ),
        (OsString::from("OTHER"), OsString::from_vec(b"\xff".to_vec())),
    ];
    let env = Sources::configuring(variables);
    assert_eq!(env.len(), 1);
    let text = load_text(&Sources {
        env,
        ..Sources::default()
    })
    .unwrap_err();
    assert_eq!(
        only_problem(&text),
        "environment variable GPUSHARE__NODE__CLUSTER: is not UTF-8; set it again in UTF-8"
    );
}

#[test]
fn the_problems_of_one_source_keep_their_order() {
    let text = ConfigFile::new("interval: 5s\n").load().unwrap_err();
    let places: Vec<&str> = text
        .lines()
        .skip(1)
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(places, ["  config.toml:1:9", "  config.toml:1:11"]);
}
