//! The caller against shell scripts in place of the control program.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::lookup::resolve_in;
use super::*;
use crate::mps::protocol::ServerStatus;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// A daemon that has one active server with one client; it writes down what it is asked.
const HEALTHY: &str = r#"
while read -r line; do
    echo "$line" >>"$0.asked"
    case $line in
        get_server_list) echo 7 ;;
        get_default_active_thread_percentage) echo 100.0 ;;
        get_server_status*) echo ACTIVE ;;
        get_client_list*) echo 9741 ;;
        ps) printf 'PID ID SERVER DEVICE NAMESPACE COMMAND\n9741 0 7 GPU-cb 4026531836 ./nbody\n' ;;
        gpushare-*) echo "Unknown command \"$line\"" ;;
    esac
done
echo end >>"$0.asked"
"#;

struct Scene {
    root: TempDir,
    control: Control,
}

impl Scene {
    /// A control program that is this script.
    fn new(script: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let binary = root.path().join("nvidia-cuda-mps-control");
        fs_err::write(&binary, format!("#!/bin/sh\n{script}")).unwrap();
        fs_err::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
        let control = Control::new(binary, root.path().join("pipe"));
        Self { root, control }
    }

    fn asked(&self) -> Vec<String> {
        let path = self.root.path().join("nvidia-cuda-mps-control.asked");
        let text = fs_err::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn probe(&self) -> Result<Report, ControlError> {
        self.control.probe(Some(7), PATIENCE)
    }
}

#[test]
fn a_probe_of_a_known_server_is_one_process() {
    let scene = Scene::new(HEALTHY);
    let report = scene.probe().unwrap();
    assert_eq!(report.servers.len(), 1);
    assert_eq!(report.servers[0].status, ServerStatus::Active);
    let client = &report.servers[0].known_clients()[0];
    assert_eq!((client.pid, client.command.as_deref()), (9741, Some("./nbody")));
    assert!(report.limits_nobody());
    let ends = scene.asked().iter().filter(|line| *line == "end").count();
    assert_eq!(ends, 1);
}

#[test]
fn a_server_that_is_new_takes_a_second_process() {
    let scene = Scene::new(HEALTHY);
    let report = scene.control.probe(None, PATIENCE).unwrap();
    assert_eq!(report.servers[0].status, ServerStatus::Active);
    assert_eq!(report.servers[0].known_clients().len(), 1);
    let ends = scene.asked().iter().filter(|line| *line == "end").count();
    assert_eq!(ends, 2);
}

#[test]
fn the_program_is_told_where_the_daemon_is_and_nothing_else_of_cuda() {
    let scene = Scene::new("env | grep CUDA | sort");
    let script = Script(Vec::new());
    // Nothing is separated here, so that the environment is looked at in another way.
    let finished = scene.control.run(&[], &script.text(), PATIENCE).unwrap();
    let expected = format!(
        "CUDA_MPS_PIPE_DIRECTORY={}\nCUDA_MPS_PROTOCOL_VERSION=2\n",
        scene.root.path().join("pipe").display()
    );
    assert_eq!(String::from_utf8_lossy(&finished.stdout), expected);
    assert!(is_of_cuda("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE".as_ref()));
    assert!(is_of_cuda("CUDA_VISIBLE_DEVICES".as_ref()));
    assert!(!is_of_cuda("PATH".as_ref()));
}

#[test]
fn m05_no_daemon_a_wedged_one_and_a_well_one_are_told_apart() {
    let absent = Scene::new("echo 'Cannot find MPS control daemon process' >&2; exit 1");
    let error = absent.probe().unwrap_err();
    assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
    assert!(error.to_string().ends_with("/pipe"), "{error}");
    let dying = Scene::new("exit 1");
    assert!(matches!(dying.probe(), Err(ControlError::NotRunning { .. })));

    let wedged = Scene::new("sleep 1000");
    let error = wedged.control.probe(Some(7), SHORT).unwrap_err();
    assert_eq!(error, ControlError::Wedged { after: SHORT });
    assert!(error.mend().contains("--force"));
    assert_eq!(wedged.control.abandoned(), 0);

    assert!(Scene::new(HEALTHY).probe().is_ok());
}

#[test]
fn m05_both_processes_of_a_probe_share_one_limit() {
    // The first answers at once; the second never.
    let script = format!("if [ -e \"$0.asked\" ]; then sleep 1000; fi\n{HEALTHY}");
    let scene = Scene::new(&script);
    let limit = Duration::from_secs(2);
    let started = Instant::now();
    let error = scene.control.probe(None, limit).unwrap_err();
    assert!(
        matches!(error, ControlError::Wedged { after } if after < limit),
        "{error}"
    );
    assert!(started.elapsed() < 2 * limit, "{:?}", started.elapsed());
}

#[test]
fn other_failures_are_told_in_the_programs_words() {
    let error = Scene::new("echo 'Cannot authenticate' >&2; exit 1")
        .probe()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the MPS control program ended with code 1: Cannot authenticate"
    );
    let error = Scene::new("exit 100").probe().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the MPS control program ended with code 100 and said nothing"
    );
    let error = Scene::new("kill -SEGV $$").probe().unwrap_err();
    assert!(
        matches!(error, ControlError::Failed { code: None, .. }),
        "{error}"
    );
    let error = Scene::new("cat >/dev/null").probe().unwrap_err();
    assert!(
        matches!(error, ControlError::Failed { code: Some(0), .. }),
        "no answer is no answer: {error}"
    );
    let error = Scene::new("yes").probe().unwrap_err();
    assert!(error.to_string().contains("more than 64 KiB"), "{error}");
    assert!(error.mend().contains("mps.control_binary"));
}

#[test]
fn m26_a_daemon_of_another_language_makes_a_report_with_gaps() {
    let report = Scene::new("cat >/dev/null; printf 'err\\377\\001 module?\\n'")
        .probe()
        .unwrap();
    assert_eq!(report.servers, []);
    assert!(!report.limits_nobody());
    assert!(!report.not_understood.is_empty());
}

#[test]
fn a_program_that_cannot_be_started_is_named_with_the_key() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("plain");
    fs_err::write(&file, "no program").unwrap();
    for (path, words) in [
        (root.path().join("missing"), "does not exist"),
        (root.path().to_owned(), "is a directory"),
        (file.clone(), "is not executable"),
        (file.join("below"), "does not exist"),
        ("/dev/null".into(), "is not executable"),
    ] {
        let error = Control::new(&path, "/nowhere").probe(None, PATIENCE).unwrap_err();
        assert!(matches!(error, ControlError::Binary { .. }), "{error}");
        let text = error.to_string();
        assert!(text.ends_with(&format!("{} {words}", path.display())), "{text}");
        assert!(error.mend().contains("mps.control_binary"));
    }
    // Executable, and of no kind that the kernel knows.
    fs_err::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let error = Control::new(&file, "/nowhere").probe(None, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("cannot be started"), "{error}");
}

#[test]
fn a_node_without_room_for_a_process_is_no_fault_of_the_program() {
    for errno in [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE] {
        let error = of_call(CallError::Spawn(errno.into()), "/usr/bin/x".into());
        assert!(matches!(error, ControlError::NoRoom { .. }), "{error}");
        assert!(error.mend().contains("TasksMax"), "{}", error.mend());
    }
    let watch = of_call(CallError::Watch(Errno::MFILE.into()), "/usr/bin/x".into());
    assert!(matches!(watch, ControlError::NoRoom { .. }), "{watch}");
    for errno in [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC] {
        let error = of_call(CallError::Spawn(errno.into()), "/usr/bin/x".into());
        assert!(matches!(error, ControlError::Binary { .. }), "{error}");
    }
}

#[test]
fn a_bare_name_is_looked_up_in_path_at_every_call() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    fs_err::create_dir(&first).unwrap();
    fs_err::create_dir(&second).unwrap();
    let path = std::env::join_paths([&first, &second]).unwrap();
    let name = Path::new("nvidia-cuda-mps-control");
    let found = || resolve_in(name, &path);

    let problem = |error| match error {
        ControlError::Binary { path, problem } => (path, problem),
        other => panic!("{other}"),
    };
    assert_eq!(
        problem(found().unwrap_err()),
        (name.to_owned(), BinaryProblem::Missing)
    );
    fs_err::write(first.join(name), "").unwrap();
    assert_eq!(
        problem(found().unwrap_err()),
        (first.join(name), BinaryProblem::NotExecutable)
    );
    fs_err::write(second.join(name), "").unwrap();
    fs_err::set_permissions(second.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(found().unwrap(), second.join(name));
}

#[test]
fn m08_defaults_are_restored_and_read_back() {
    let settable = r#"
while read -r line; do
    case $line in
        "set_default_active_thread_percentage 100") echo 100 >"$0.threads"; echo 100.0 ;;
        set_default_device_pinned_mem_limit*) rm -f "$0.memory" ;;
        get_default_active_thread_percentage) [ -e "$0.threads" ] && echo 100.0 || echo 25.0 ;;
        get_default_device_pinned_mem_limit*) [ -e "$0.memory" ] && echo 2G ;;
        gpushare-*) echo "Unknown command \"$line\"" ;;
    esac
done
"#;
    Scene::new(settable).control.restore_defaults(PATIENCE).unwrap();

    let deaf_to_threads = settable.replace("echo 100 >\"$0.threads\"", ":");
    let error = Scene::new(&deaf_to_threads)
        .control
        .restore_defaults(PATIENCE)
        .unwrap_err();
    assert!(
        error.to_string().contains("percentage = 100, and reads back 25"),
        "{error}"
    );

    let deaf_to_memory = settable.replace("rm -f \"$0.memory\"", ": >\"$0.memory\"");
    let error = Scene::new(&deaf_to_memory)
        .control
        .restore_defaults(PATIENCE)
        .unwrap_err();
    assert!(
        error.to_string().contains("mem_limit = none, and reads back 2G"),
        "{error}"
    );

    let error = Scene::new("cat").control.restore_defaults(PATIENCE).unwrap_err();
    assert!(
        matches!(error, ControlError::NotTaken { .. }),
        "an echo is no setting: {error}"
    );
}

#[test]
fn a_refused_order_is_an_error_in_the_daemons_words() {
    let scene = Scene::new(
        "while read -r line; do case $line in\n\
         gpushare-*) echo \"Unknown command \\\"$line\\\"\" ;;\n\
         start*) echo 'Server with UID 0 already exists' ;;\n\
         *) echo 'Server 999 not found' ;; esac; done",
    );
    let order = |command| scene.control.order(command, PATIENCE);
    let error = order(Command::TerminateClient {
        server: 999,
        client: 1,
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the MPS control daemon refuses `terminate_client 999 1`: Server 999 not found"
    );
    assert_eq!(order(Command::StartServer { uid: 0 }), Ok(()));
    let quit = scene.control.quit(Duration::from_secs(5), PATIENCE);
    assert!(matches!(quit, Err(ControlError::Refused { .. })), "{quit:?}");
}

#[test]
fn quit_is_one_bounded_order() {
    let scene = Scene::new("cat >\"$0.asked\"");
    scene.control.quit(Duration::from_secs(5), PATIENCE).unwrap();
    assert_eq!(scene.asked(), ["quit -t 5"]);
}

#[test]
fn the_version_is_asked_of_the_program_alone() {
    let told = Scene::new("[ \"$1\" = -v ] && echo 'CUDA MPS Control. Binary version: 13020'");
    assert_eq!(told.control.version(PATIENCE), Ok(Version::Binary(13_020)));
    // 550 does not know the option, and looks for a daemon.
    let untold = Scene::new("echo 'Cannot find MPS control daemon process' >&2; exit 1");
    assert_eq!(untold.control.version(PATIENCE), Ok(Version::Untold));
}

/// Cuts the first conversations off in every way that was seen of NVIDIA's daemon, one after the other.
const CUTTING: &str = r#"
echo attempt >>"$0.attempts"
case $(wc -l <"$0.attempts") in
    1) cat >/dev/null; exit 1 ;;
    2) cat >/dev/null; exit 0 ;;
    3) echo 'Cannot send command to MPS control daemon process' >&2; exit 1 ;;
    4) echo 7; exit 0 ;;
esac
"#;

#[test]
fn a_conversation_that_the_daemon_cuts_off_is_held_again() {
    let scene = Scene::new(&format!("{CUTTING}{HEALTHY}"));
    let report = scene.probe().unwrap();
    assert_eq!(
        report.clients().count(),
        1,
        "who has clients is not taken for gone"
    );
    assert_eq!(report.not_understood, [""; 0]);
}

#[test]
fn a_daemon_that_says_nothing_at_all_is_not_asked_for_ever() {
    let scene = Scene::new("cat >/dev/null; echo x >>\"$0.attempts\"; exit 1\n");
    assert!(matches!(scene.probe(), Err(ControlError::NotRunning { .. })));
    let attempts = scene.root.path().join("nvidia-cuda-mps-control.attempts");
    assert_eq!(fs_err::read_to_string(attempts).unwrap().lines().count(), 5);
}

#[test]
fn m04_a_quit_that_was_heard_without_an_answer_has_ended_the_daemon() {
    let gone = "cat >/dev/null; [ -e \"$0.told\" ] && { echo 'Cannot find MPS control daemon process' >&2; exit 1; }\n\
                >\"$0.told\"; exit 1\n";
    let scene = Scene::new(gone);
    scene.control.quit(Duration::from_secs(1), PATIENCE).unwrap();
    let absent = scene.control.quit(Duration::from_secs(1), PATIENCE);
    assert!(
        matches!(absent, Err(ControlError::NotRunning { .. })),
        "{absent:?}"
    );
}
