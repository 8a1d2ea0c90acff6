//! Clients, and what they see.

use crate::stage::{Stage, wait_until};

#[test]
fn a_client_starts_the_server_and_is_listed_with_its_host_pid() {
    let stage = Stage::new("");
    let _daemon = stage.daemon(&[]);
    let (client, server) = stage.connected();
    let pid = client.pid();
    assert_eq!(stage.said("get_server_list"), format!("{server}\n"));
    stage.until(&format!("get_client_list {server}"), &format!("{pid}\n"));
    let ps = stage.said("ps");
    let row: Vec<&str> = ps.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row[..3],
        [pid.to_string(), "0".to_owned(), server.to_string()],
        "{ps}"
    );
    drop(client);
    stage.until(&format!("get_client_list {server}"), "");
    wait_until(|| stage.said("ps").lines().count() == 1, || stage.said("ps"));
}
