//! The nodes themselves: what the other tests take for granted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use e2e::{Node, PATIENCE, Spec};
use rustix::process::Signal;

#[test]
fn a_node_boots_and_commands_pass_their_output_and_exit_code_through() {
    let node = Node::boot(&Spec::new("plain"));
    let failed = node.succeed(&["systemctl", "--failed"]);
    assert_eq!(node.state().as_deref(), Some("running"), "{failed}");
    let ran = node.run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    assert_eq!(node.run(&["sh", "-c", "kill -9 $$"]).code, 128 + 9);
    let unit = ["systemd-run", "--wait", "--pipe", "--quiet", "sh", "-c", "exit 7"];
    assert_eq!(node.run(&unit).code, 7, "as a unit too");
    assert_eq!(node.succeed(&["hostname"]), "plain\n");
    let groups = node.succeed(&["stat", "--file-system", "--format=%T", "/sys/fs/cgroup"]);
    assert_eq!(groups, "cgroup2fs\n", "as on Amazon Linux 2023");
}

#[test]
fn the_journal_of_a_unit_can_be_read_and_is_shown_when_a_state_does_not_come() {
    let node = Node::boot(&Spec::new("journal"));
    node.succeed(&[
        "systemd-run",
        "--wait",
        "--unit=speaker",
        "echo",
        "hello from the unit",
    ]);
    let seen = node.wait_until("its words", PATIENCE, || {
        Some(node.journal("speaker")).filter(|text| text.contains("hello from the unit"))
    });
    assert!(seen.lines().any(|line| line == "hello from the unit"), "{seen}");
    assert_eq!(node.property("speaker", "ActiveState"), "inactive");

    let never = || node.wait_until("the impossible", Duration::ZERO, || None::<()>);
    let panic = catch_unwind(AssertUnwindSafe(never)).unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(
        said.contains("node journal: never came within 0 s: the impossible"),
        "{said}"
    );
    assert!(said.contains("hello from the unit"), "{said}");
}

#[test]
fn a_reboot_and_a_power_off_keep_the_disk_and_nothing_else() {
    let mut node = Node::boot(&Spec::new("reboot"));
    let id = node.succeed(&["cat", "/etc/machine-id"]);
    assert_eq!(id.trim().len(), 32, "{id}");
    node.succeed(&["sh", "-c", "echo kept >/var/kept; echo gone >/run/gone"]);
    assert!(node.path("/run/gone").exists());

    node.reboot();
    assert_eq!(fs_err::read_to_string(node.path("/var/kept")).unwrap(), "kept\n");
    assert!(!node.path("/run/gone").exists());
    assert_eq!(node.succeed(&["cat", "/etc/machine-id"]), id);
    assert_eq!(boots(&node), 2);

    node.poweroff();
    assert_eq!(node.state(), None);
    fs_err::write(node.path("/var/kept"), "changed meanwhile\n").unwrap();
    node.switch_on();
    assert_eq!(node.succeed(&["cat", "/var/kept"]), "changed meanwhile\n");
    assert_eq!(boots(&node), 3);
}

fn boots(node: &Node) -> usize {
    let list = node.succeed(&["journalctl", "--list-boots", "--no-pager", "--quiet"]);
    let starts = list.lines().filter(|line| !line.starts_with("IDX"));
    starts.count()
}

#[test]
fn files_are_on_a_node_before_it_boots_and_binds_show_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("note"), "from outside").unwrap();
    let unit = "[Service]\nType=oneshot\nExecStart=/opt/program\n";
    let spec = Spec::new("files")
        .with_file("/opt/program", "#!/bin/sh\necho ran\n", 0o755)
        .with_file("/etc/systemd/system/early.service", unit, 0o644)
        .with_file(
            "/etc/systemd/system/multi-user.target.d/early.conf",
            "[Unit]\nWants=early.service\n",
            0o644,
        )
        .with_bind(dir.path(), "/mnt/fixed")
        .with_writable_bind(dir.path(), "/mnt/shared");
    let node = Node::boot(&spec);
    assert!(node.journal("early").lines().any(|line| line == "ran"));
    assert_eq!(node.succeed(&["cat", "/mnt/fixed/note"]), "from outside");
    let refused = node.run(&["touch", "/mnt/fixed/mark"]);
    assert!(refused.stderr.contains("Read-only"), "{refused:?}");
    node.succeed(&["touch", "/mnt/shared/mark"]);
    assert!(dir.path().join("mark").exists());
}

#[test]
fn processes_are_known_on_both_sides_and_die_when_they_are_dropped() {
    let node = Node::boot(&Spec::new("processes"));
    node.succeed(&["systemd-run", "--unit=sleeper", "/bin/sleep", "1000"]);
    let pid: u32 = node.property("sleeper", "MainPID").parse().unwrap();
    let outside = node.host_pid(pid).unwrap();
    assert_eq!(command_line(outside), ["/bin/sleep", "1000"]);
    assert_eq!(node.host_pid(4_000_000), None);

    let running = node.spawn(&["sleep", "2000"]);
    let pid = node.wait_until("its process", PATIENCE, || {
        running
            .pid()
            .filter(|pid| command_line(*pid) == ["sleep", "2000"])
    });
    drop(running);
    node.wait_until("its end", PATIENCE, || command_line(pid).is_empty().then_some(()));
    let running = node.spawn(&["sleep", "3000"]);
    node.wait_until("its process", PATIENCE, || running.pid());
    running.signal(Signal::TERM);
    assert_eq!(running.wait(PATIENCE).unwrap().code, 128 + 15);
}

#[test]
fn a_program_beside_a_node_has_its_network_and_does_not_outlive_it() {
    let node = Node::boot(&Spec::new("beside"));
    let mut look = Command::new("sh");
    look.args(["-c", "cat /proc/net/dev; echo $WORD >&2"])
        .env("WORD", "passed on");
    let ran = node.beside(&look).wait(PATIENCE).unwrap();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "passed on\n"));
    let interfaces = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.trim().to_owned()).collect()
    };
    assert_eq!(interfaces(&ran.stdout), ["lo"]);
    assert_eq!(
        interfaces(&node.succeed(&["cat", "/proc/net/dev"])),
        interfaces(&ran.stdout)
    );

    let running = node.beside(Command::new("sleep").arg("4000"));
    let pid = node.wait_until("its process", PATIENCE, || {
        running
            .pid()
            .filter(|pid| command_line(*pid) == ["sleep", "4000"])
    });
    drop(node);
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, 128 + 9);
    assert!(command_line(pid).is_empty());
}

/// Empty when there is no such process.
fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}
