//! What was found out at an earlier start, so that a node whose metadata service is down still knows its name.
//!
//! The file is valid only on the instance that wrote it: a root volume may become an AMI, and an AMI other nodes.
//! It holds what was found, never what the configuration says, so that taking an override away takes effect. The
//! calls block.

use std::io;
use std::path::Path;

use super::document::{Shape, is_group_name, is_image_id, is_instance_id, is_instance_type, is_region};
use super::{Identity, file};

/// What is known of the instance `instance_id`. A file of another instance is passed over; one that cannot be read
/// or makes no sense is too, and that is logged.
#[must_use]
pub(super) fn read(path: &Path, instance_id: &str) -> Option<Identity> {
    let text = match file::read(path) {
        Ok(text) => text?,
        Err(error) => {
            tracing::warn!(%error, "the cached identity cannot be read; going on without it");
            return None;
        }
    };
    let Some(identity) = parse(&text) else {
        tracing::warn!(path = %path.display(), "the cached identity makes no sense; going on without it");
        return None;
    };
    if identity.instance_id.as_deref() == Some(instance_id) {
        return Some(identity);
    }
    tracing::info!(path = %path.display(), "the cached identity is of another instance; going on without it");
    None
}

/// Keeps what was found.
///
/// # Errors
/// The file cannot be written; the error names the path.
pub(super) fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    let text = serde_json::to_string_pretty(identity).expect("an identity of strings is valid JSON");
    file::replace(path, &(text + "\n"))
}

fn parse(text: &str) -> Option<Identity> {
    let identity: Identity = serde_json::from_str(text).ok()?;
    let Identity {
        instance_id,
        image_id,
        instance_type,
        region,
        auto_scaling_group,
        cluster,
        nodegroup,
    } = &identity;
    let shapes: [(&Option<String>, Shape); 7] = [
        (instance_id, is_instance_id),
        (image_id, is_image_id),
        (instance_type, is_instance_type),
        (region, is_region),
        (auto_scaling_group, is_group_name),
        (cluster, is_group_name),
        (nodegroup, is_group_name),
    ];
    let sound = shapes.iter().all(|(value, is)| value.as_deref().is_none_or(is));
    sound.then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            instance_id: Some("i-1".into()),
            image_id: Some("ami-2".into()),
            instance_type: Some("g5.xlarge".into()),
            region: Some("eu-west-1".into()),
            auto_scaling_group: Some("gpu nodes".into()),
            ..Identity::default()
        }
    }

    #[test]
    fn what_was_kept_is_known_on_the_same_instance_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("identity.json");
        assert_eq!(read(&path, "i-1"), None);
        write(&path, &identity()).unwrap();
        assert_eq!(read(&path, "i-1"), Some(identity()));
        assert_eq!(read(&path, "i-2"), None);
    }

    #[test]
    fn a_damaged_cache_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("identity.json");
        for text in [
            "",
            "{",
            "[]",
            "null",
            r#"{"instance_id": "i-1", "region": "<html>"}"#,
            r#"{"instance_id": 7}"#,
            "\u{0}\u{0}",
        ] {
            fs_err::write(&path, text).unwrap();
            assert_eq!(read(&path, "i-1"), None, "{text:?}");
        }
        fs_err::write(&path, b"\xff\xff").unwrap();
        assert_eq!(read(&path, "i-1"), None);
    }

    #[test]
    fn a_cache_of_another_version_is_read_as_far_as_it_is_known() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("identity.json");
        fs_err::write(&path, r#"{"instance_id": "i-1", "zone": "eu-west-1b"}"#).unwrap();
        let known = read(&path, "i-1").unwrap();
        assert_eq!(known.instance_id.as_deref(), Some("i-1"));
    }

    #[test]
    fn a_directory_that_is_a_file_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        fs_err::write(&state, "").unwrap();
        let error = write(&state.join("identity.json"), &identity()).unwrap_err();
        assert!(error.to_string().contains("state"), "{error}");
    }
}
