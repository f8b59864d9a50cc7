//! The user and group ids for pods with a user namespace of their own.
//!
//! They are those of `userNamespaces`, or the subordinate ids of the user `kubelet` where the
//! machine has that user and `getsubids`. Read once, at the start; `pods::user_namespaces` gives
//! them to pods.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::AccessFlags;
use tokio::process::Command;
use tracing::debug;

use crate::config::KubeletConfiguration;
use crate::pods::user_namespaces::{Ids, parse_subids};

/// The user whose subordinate ids pods get.
const USER: &str = "kubelet";

/// The program that prints the subordinate ids of a user; it may ask a directory service.
const TOOL: &str = "getsubids";

/// The deadline of the program.
const DEADLINE: Duration = Duration::from_secs(30);

/// Upstream's default of `userNamespaces.idsPerPod`.
const IDS_PER_POD: i64 = 65_536;

/// Reads and checks the ids. Where the user exists the program's answer counts, and an answer that
/// cannot be used is an error.
pub(super) async fn ids(config: &KubeletConfiguration) -> anyhow::Result<Ids> {
    let per_pod =
        config.user_namespaces.as_ref().and_then(|users| users.ids_per_pod).unwrap_or(IDS_PER_POD);
    let per_pod = u32::try_from(per_pod).context("userNamespaces.idsPerPod")?;
    let max_pods = u32::try_from(config.max_pods).unwrap_or(0);
    let known = subordinate().await.context("create user namespace manager: kubelet mappings")?;
    Ids::new(per_pod, known, max_pods).context("create user namespace manager")
}

async fn subordinate() -> anyhow::Result<Option<(u32, u32)>> {
    // First of all: looking a user up loads the system's modules for it into this process, for
    // good.
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if !crate::linux::blocking::spawn(move || has_tool(&folders)).await? {
        debug!(executable = TOOL, "user namespaces: executable not found, using default mappings");
        return Ok(None);
    }
    let user = crate::linux::blocking::spawn(|| nix::unistd::User::from_name(USER)).await?;
    if user.with_context(|| format!("looking up the user {USER}"))?.is_none() {
        debug!(user = USER, "user namespaces: user not found, using default mappings");
        return Ok(None);
    }
    let Some(users) =
        printed(&[USER]).await.context("error retrieving additional uids for user \"kubelet\"")?
    else {
        debug!(executable = TOOL, "user namespaces: executable not found, using default mappings");
        return Ok(None);
    };
    let groups = printed(&["-g", USER])
        .await
        .context("error retrieving additional gids for user \"kubelet\"")?;
    if groups.as_ref() != Some(&users) {
        bail!("mismatched subuids and subgids for user \"kubelet\"");
    }
    Ok(Some(parse_subids(&users)?))
}

/// Returns true if the program is in one of `folders`, a value of `PATH`, as upstream looks for it.
fn has_tool(folders: &OsStr) -> bool {
    std::env::split_paths(folders).any(|folder| {
        let tool = folder.join(TOOL);
        tool.is_file() && nix::unistd::access(&tool, AccessFlags::X_OK).is_ok()
    })
}

/// Runs the program and returns its output; `None` where it does not exist.
async fn printed(arguments: &[&str]) -> anyhow::Result<Option<String>> {
    let run = Command::new(TOOL).args(arguments).kill_on_drop(true).output();
    match tokio::time::timeout(DEADLINE, run).await.context("it does not answer")? {
        Ok(output) if output.status.success() => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Ok(output) => bail!("{}", output.status),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{TOOL, has_tool};

    #[test]
    fn the_tool_is_a_program_in_one_of_the_folders() {
        let home = tempfile::tempdir().expect("a folder");
        let [nothing, folder, program] =
            ["nothing", "folder", "program"].map(|name| home.path().join(name));
        std::fs::create_dir_all(folder.join(TOOL)).expect("a folder of that name");
        std::fs::create_dir_all(&program).expect("a folder");
        let file = program.join(TOOL);
        std::fs::File::create(&file).expect("a file");
        let found = |folders: &[&std::path::Path]| {
            has_tool(&std::env::join_paths(folders).expect("a PATH"))
        };
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))
            .expect("no program yet");
        assert!(!found(&[&nothing, &folder, &program]));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a program");
        assert!(found(&[&nothing, &folder, &program]));
        assert!(!found(&[]));
    }
}
