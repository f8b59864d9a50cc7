//! Images that are missing, misnamed or not to be pulled, and commands that are not in the image.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use serde_json::json;

use crate::bed::{Bed, shows};
use crate::look::text;
use crate::registry::Registry;
use crate::{Case, beyond, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        slow(missing_image),
        case(never_pulled),
        case(invalid_image_name),
        case(missing_command),
        case(missing_working_directory_is_made),
        case(image_is_mended),
        case(command_and_arguments_of_the_image),
        slow(pulled_once),
        slow(pulled_with_a_secret),
        beyond(deleted_during_a_pull),
    ]
}

async fn missing_image(bed: Bed) -> Result<()> {
    let image = "nowhere.invalid/none:1";
    bed.pod("p", &format!("containers: [{{name: main, image: '{image}'}}]")).await?;
    bed.until(
        "p",
        &[
            "phase=Pending",
            "c[main].state.waiting.reason=ErrImagePull",
            "c[main].state.waiting.message=?*nowhere.invalid/*",
        ],
    )
    .await?;
    bed.event("p", "Pulling", &format!("Pulling image \"{image}\"")).await?;
    let failed = bed
        .event("p", "Failed", &format!("Failed to pull image \"{image}\": ?*nowhere.invalid/*"))
        .await?;
    shows(&failed, &["type=Warning", "involvedObject.fieldPath=spec.containers{main}"])?;
    bed.event("p", "Failed", "Error: ErrImagePull").await?;
    let backoff = format!("Back-off pulling image \"{image}\"");
    bed.until(
        "p",
        &[
            "c[main].state.waiting.reason=ImagePullBackOff",
            &format!("c[main].state.waiting.message={backoff}: ErrImagePull: ?*nowhere.invalid/*"),
            "c[main].ready=false",
            "c[main].started=false",
            "c[main].imageID=",
            "c[main].containerID=",
        ],
    )
    .await?;
    shows(&bed.event("p", "BackOff", &backoff).await?, &["type=Normal"])?;
    bed.event("p", "Failed", "Error: ImagePullBackOff").await?;
    Ok(())
}

pub(crate) async fn never_pulled(bed: Bed) -> Result<()> {
    bed.pod(
        "p",
        "containers: [{name: main, image: 'nowhere.invalid/none:1', imagePullPolicy: Never}]",
    )
    .await?;
    let message =
        "Container image \"nowhere.invalid/none:1\" is not present with pull policy of Never";
    bed.until(
        "p",
        &[
            "c[main].state.waiting.reason=ErrImageNeverPull",
            &format!("c[main].state.waiting.message={message}"),
        ],
    )
    .await?;
    shows(&bed.event("p", "ErrImageNeverPull", message).await?, &["type=Warning"])?;
    bed.event("p", "Failed", "Error: ErrImageNeverPull").await?;
    Ok(())
}

async fn invalid_image_name(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: 'Not/A:Valid:Name'}]").await?;
    let message = "Failed to apply default image tag \"Not/A:Valid:Name\": couldn't parse image name \"Not/A:Valid:Name\": *";
    bed.until(
        "p",
        &[
            "c[main].state.waiting.reason=InvalidImageName",
            &format!("c[main].state.waiting.message={message}"),
        ],
    )
    .await?;
    shows(&bed.event("p", "InspectFailed", message).await?, &["type=Warning"])?;
    bed.event("p", "Failed", "Error: InvalidImageName").await?;
    Ok(())
}

pub(crate) async fn missing_command(bed: Bed) -> Result<()> {
    bed.pod("p", "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [/no/such/program]}]}")
        .await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[main].state.terminated.reason=StartError",
            "c[main].state.terminated.exitCode=128",
            "c[main].state.terminated.message=failed to *: exec: \"/no/such/program\"*no such file or directory*",
        ],
    )
    .await?;
    let failed = bed
        .event(
            "p",
            "Failed",
            "Error: failed to *: exec: \"/no/such/program\"*no such file or directory*",
        )
        .await?;
    shows(&failed, &["type=Warning"])
}

async fn missing_working_directory_is_made(bed: Bed) -> Result<()> {
    bed.pod(
        "p",
        "{restartPolicy: Never, containers: [{name: main, image: busybox, workingDir: /made/here, command: [pwd]}]}",
    )
    .await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    crate::bed::same("the log", bed.logs("p", "main").await?, "/made/here\n".to_owned())
}

async fn image_is_mended(bed: Bed) -> Result<()> {
    bed.pod(
        "p",
        "containers: [{name: main, image: 'nowhere.invalid/none:1', command: [sleep, '1000']}]",
    )
    .await?;
    let pod = bed.until("p", &["c[main].state.waiting.reason=?*Image*"]).await?;
    let change = "[{\"op\": \"replace\", \"path\": \"/spec/containers/0/image\", \"value\": \"registry.k8s.io/e2e-test-images/busybox:1.37.0-1\"}]";
    bed.kubectl(&["patch", "pod", "p", "--type=json", "-p", change]).await?;
    bed.until("p", &["cond[Ready]=True", &format!("metadata.uid={}", text(&pod, "metadata.uid"))])
        .await?;
    Ok(())
}

async fn command_and_arguments_of_the_image(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
containers:
- {name: arguments, image: agnhost, args: [help]}
- {name: expanded, image: busybox, command: [sh, -c, 'echo $(WHO) $$(WHO) $(NOBODY)'], args: [unused], env: [{name: WHO, value: me}]}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    crate::bed::has_line("the log", &bed.logs("p", "arguments").await?, "Usage:*")?;
    // The shell sees `me`, a `$(WHO)` to run and a `$(NOBODY)` to run: only what is known is
    // replaced.
    crate::bed::has_line("the log", &bed.logs("p", "expanded").await?, "me*")
}

async fn pulled_once(bed: Bed) -> Result<()> {
    let registry = Registry::start(&bed).await?;
    let image = format!("{}/open/tiny:1", registry.address);
    let spec = format!(
        "{{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{image}'}}]}}"
    );
    bed.pod("first", &spec).await?;
    bed.until(
        "first",
        &["cond[Ready]=True", "c[main].imageID=?*", &format!("c[main].image={image}")],
    )
    .await?;
    bed.event("first", "Pulling", &format!("Pulling image \"{image}\"")).await?;
    let pulled = format!(
        "Successfully pulled image \"{image}\" in *s (*s including waiting). Image size: ?* bytes."
    );
    shows(&bed.event("first", "Pulled", &pulled).await?, &["type=Normal"])?;
    bed.pod("second", &spec).await?;
    bed.until("second", &["cond[Ready]=True"]).await?;
    let present = format!(
        "Container image \"{image}\" already present on machine and can be accessed by the pod"
    );
    bed.event("second", "Pulled", &present).await?;
    // `Always` asks the registry each time.
    let always =
        format!("{{containers: [{{name: main, image: '{image}', imagePullPolicy: Always}}]}}");
    bed.pod("third", &always).await?;
    bed.event("third", "Pulled", &pulled).await?;
    Ok(())
}

async fn pulled_with_a_secret(bed: Bed) -> Result<()> {
    let registry = Registry::start(&bed).await?;
    let image = format!("{}/private/tiny:1", registry.address);
    bed.pod("without", &format!("containers: [{{name: main, image: '{image}'}}]")).await?;
    bed.event("without", "Failed", &format!("Failed to pull image \"{image}\": *authorization*"))
        .await?;
    let auth = base64::engine::general_purpose::STANDARD.encode("me:secret");
    let config = json!({"auths": {registry.address.as_str(): {"auth": auth}}}).to_string();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config}});
    bed.create(&secret.to_string()).await?;
    let spec = format!(
        "{{imagePullSecrets: [{{name: pull}}, {{name: not-there}}], containers: [{{name: main, image: '{image}'}}]}}"
    );
    bed.pod("with", &spec).await?;
    bed.until("with", &["cond[Ready]=True"]).await?;
    bed.event(
        "with",
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (not-there); *",
    )
    .await?;
    Ok(())
}

async fn deleted_during_a_pull(bed: Bed) -> Result<()> {
    let registry = Registry::start(&bed).await?;
    let image = format!("{}/slow/tiny:1", registry.address);
    bed.pod("p", &format!("containers: [{{name: main, image: '{image}'}}]")).await?;
    bed.event("p", "Pulling", &format!("Pulling image \"{image}\"")).await?;
    bed.until("p", &["phase=Pending", "c[main].state.waiting.reason=ContainerCreating"]).await?;
    let began = Instant::now();
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "gone only after {:?}, though nothing ran",
        began.elapsed()
    );
    Ok(())
}
