//! Volumes: what is in them, how it changes, and what is said when one cannot be had.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bed::{Bed, has_line, same, shows};
use crate::look::{glob, text};
use crate::{Case, beyond, case, slow};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(empty_dir_on_disk_is_shared_and_removed),
        case(empty_dir_in_memory),
        case(config_map_with_items_and_modes),
        case(secret_is_in_memory),
        slow(updates_reach_the_files),
        beyond(an_edit_reaches_the_files_within_two_seconds_and_no_others),
        beyond(sub_paths_survive_edits_while_containers_start),
        case(downward_api),
        slow(downward_api_follows_labels),
        case(projected_sources),
        case(token_speaks_to_the_api),
        case(missing_config_map_is_named_then_mounted),
        case(optional_sources),
        case(host_path_kinds),
        case(host_path_of_the_wrong_kind),
        case(unsupported_kind_is_named),
        case(sub_paths),
        case(sub_paths_while_the_config_map_changes),
        case(read_only_mounts),
        beyond(a_vanished_socket_is_waited_for),
        beyond(a_volume_below_a_read_only_empty_dir),
        beyond(an_immutable_config_map_made_again_reaches_new_pods),
    ]
}

/// Repeats a command in a container until its output is what `pattern` describes.
async fn until_output(bed: &Bed, argv: &[&str], pattern: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let seen = bed.exec("p", "main", argv).await?;
        if glob(pattern, &seen) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after 120 s {} still says {seen:?}, wanted {pattern:?}",
            argv.join(" ")
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn run(bed: &Bed, spec: &str) -> Result<String> {
    bed.pod("p", &format!("restartPolicy: Never\n{spec}")).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    bed.logs("p", "main").await
}

async fn empty_dir_on_disk_is_shared_and_removed(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
volumes: [{name: data, emptyDir: {}}]
containers:
- {name: main, image: busybox, command: [sh, -c, 'stat -c %a /data > /data/mode; sleep 1000'], volumeMounts: [{name: data, mountPath: /data}]}
- {name: other, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: data, mountPath: /elsewhere}]}
";
    bed.pod("p", spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    same(
        "the mode",
        bed.until_exec("p", "other", &["grep", ".", "/elsewhere/mode"]).await?.as_str(),
        "777\n",
    )?;
    let folder = format!(
        "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~empty-dir/data",
        text(&pod, "metadata.uid")
    );
    let folder = bed.cluster.on_node(&folder);
    ensure!(folder.join("mode").exists(), "{} is not where the volume lies", folder.display());
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await?;
    ensure!(!folder.exists(), "{} is still there when the pod is gone", folder.display());
    Ok(())
}

async fn empty_dir_in_memory(bed: Bed) -> Result<()> {
    let spec = "
volumes: [{name: data, emptyDir: {medium: Memory, sizeLimit: 8Mi}}]
containers: [{name: main, image: busybox, command: [sh, -c, 'grep \" /data \" /proc/mounts'], volumeMounts: [{name: data, mountPath: /data}]}]
";
    has_line("the mounts", &run(&bed, spec).await?, "tmpfs /data tmpfs rw*size=8192k*")
}

async fn config_map_with_items_and_modes(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {one: first, two: second}, binaryData: {raw: AAEC}}")
        .await?;
    let spec = "
volumes:
- {name: all, configMap: {name: settings, defaultMode: 256}}
- {name: some, configMap: {name: settings, items: [{key: two, path: deep/er, mode: 292}]}}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'cd /all; for f in *; do echo $f $(stat -Lc %a $f) $(od -An -c $f | tr -d \" \"); done; cd /some; find . -name \"[!.]*\" -not -path \"*/..*\" | sort; cat deep/er; stat -Lc %a deep/er']
  volumeMounts: [{name: all, mountPath: /all}, {name: some, mountPath: /some}]
";
    let seen = run(&bed, spec).await?;
    for line in ["one 400 first", "two 400 second", "raw 400 *001*002", "./deep", "second444"] {
        has_line("the log", &seen, line)?;
    }
    Ok(())
}

async fn secret_is_in_memory(bed: Bed) -> Result<()> {
    bed.create(
        "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {password: hidden}}",
    )
    .await?;
    let spec = "
volumes: [{name: keys, secret: {secretName: keys}}]
containers:
- {name: main, image: busybox, command: [sh, -c, 'grep \" /keys \" /proc/mounts; cat /keys/password; echo; stat -Lc %a /keys/password'], volumeMounts: [{name: keys, mountPath: /keys}]}
";
    let seen = run(&bed, spec).await?;
    has_line("the log", &seen, "tmpfs /keys tmpfs *")?;
    has_line("the log", &seen, "hidden")?;
    has_line("the log", &seen, "644")
}

async fn updates_reach_the_files(bed: Bed) -> Result<()> {
    bed.create(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {kept: same, changed: old, dropped: x}}",
    )
    .await?;
    bed.create(
        "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {password: old}}",
    )
    .await?;
    let spec = "
terminationGracePeriodSeconds: 1
volumes: [{name: settings, configMap: {name: settings}}, {name: keys, secret: {secretName: keys}}]
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  volumeMounts: [{name: settings, mountPath: /settings}, {name: keys, mountPath: /keys}, {name: settings, mountPath: /fixed, subPath: changed}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.patch(
        "ConfigMap",
        "settings",
        json!({"data": {"changed": "new", "dropped": null, "added": "fresh"}}),
    )
    .await?;
    bed.patch("Secret", "keys", json!({"stringData": {"password": "new"}})).await?;
    until_output(
        &bed,
        &["sh", "-c", "cd /settings; echo $(ls) $(cat *)"],
        "added changed kept freshnewsame\n",
    )
    .await?;
    until_output(&bed, &["cat", "/keys/password"], "new").await?;
    // What is mounted by subPath stays as it was.
    same("the file by subPath", bed.exec("p", "main", &["cat", "/fixed"]).await?.as_str(), "old")?;
    bed.until("p", &["c[main].restartCount=0"]).await?;
    Ok(())
}

const DOWNWARD: &str = "
terminationGracePeriodSeconds: 1
volumes:
- name: info
  downwardAPI:
    items:
    - {path: name, fieldRef: {fieldPath: metadata.name}}
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: note, fieldRef: {fieldPath: \"metadata.annotations['note']\"}}
    - {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  resources: {limits: {cpu: 250m}}
  volumeMounts: [{name: info, mountPath: /info}]
";

async fn an_edit_reaches_the_files_within_two_seconds_and_no_others(bed: Bed) -> Result<()> {
    for name in ["edited", "other"] {
        bed.create(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{one: v0}}}}"
        ))
        .await?;
    }
    let spec = "
terminationGracePeriodSeconds: 0
volumes: [{name: edited, configMap: {name: edited}}, {name: other, configMap: {name: other}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: edited, mountPath: /a}, {name: other, mountPath: /b}]}]
";
    bed.pod("p", spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    let base = format!(
        "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~configmap",
        text(&pod, "metadata.uid")
    );
    let base = bed.cluster.on_node(&base);
    let untouched = std::fs::read_link(base.join("other/..data"))?;
    for round in 1..6 {
        let value = format!("v{round}");
        bed.patch("ConfigMap", "edited", json!({"data": {"one": value}})).await?;
        let edited = Instant::now();
        while std::fs::read_to_string(base.join("edited/one"))? != value {
            ensure!(
                edited.elapsed() < Duration::from_secs(2),
                "{value} is not in the file after two seconds"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    same(
        "the files of the other ConfigMap",
        std::fs::read_link(base.join("other/..data"))?,
        untouched,
    )
}

/// A ConfigMap is edited all the time while containers with a subPath of it start: upstream removes
/// what they were given.
async fn sub_paths_survive_edits_while_containers_start(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {one: v0}}")
        .await?;
    let spec = "
restartPolicy: Never
volumes: [{name: settings, configMap: {name: settings}}]
containers: [{name: main, image: busybox, command: [cat, /one], volumeMounts: [{name: settings, mountPath: /one, subPath: one}]}]
";
    let names: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
    for name in &names {
        bed.pod(name, spec).await?;
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let edit = async {
        let mut round = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            round += 1;
            bed.patch("ConfigMap", "settings", json!({"data": {"one": format!("v{round}")}}))
                .await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let wait = async {
        let mut outcome = Ok(());
        for name in &names {
            outcome = bed.until(name, &["phase=Succeeded"]).await.map(drop);
            if outcome.is_err() {
                break;
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    };
    let (edited, waited) = tokio::join!(edit, wait);
    waited?;
    edited?;
    for name in &names {
        let failed: Vec<_> =
            bed.events(name).await?.into_iter().filter(|(reason, _)| reason == "Failed").collect();
        same("failures to start", failed, Vec::new())?;
    }
    Ok(())
}

async fn downward_api(bed: Bed) -> Result<()> {
    bed.labelled_pod("p", "{labels: {a: one, b: two}, annotations: {note: hello}}", DOWNWARD)
        .await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let seen = bed
        .exec(
            "p",
            "main",
            &["sh", "-c", "cd /info; for f in name labels note cpu; do cat $f; echo; done"],
        )
        .await?;
    same("the files", seen.as_str(), "p\na=\"one\"\nb=\"two\"\nhello\n250\n")
}

async fn downward_api_follows_labels(bed: Bed) -> Result<()> {
    bed.labelled_pod("p", "{labels: {a: one}, annotations: {note: hello}}", DOWNWARD).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.patch("Pod", "p", json!({"metadata": {"labels": {"a": "changed"}}})).await?;
    until_output(&bed, &["cat", "/info/labels"], "a=\"changed\"").await
}

async fn projected_sources(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {one: first}}")
        .await?;
    bed.create(
        "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {password: hidden}}",
    )
    .await?;
    let spec = "
volumes:
- name: all
  projected:
    defaultMode: 288
    sources:
    - configMap: {name: settings, items: [{key: one, path: map/one}]}
    - secret: {name: keys}
    - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
    - serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 3600}
containers:
- {name: main, image: busybox, command: [sh, -c, 'cd /all; cat map/one; echo; cat password; echo; cat name; echo; cut -d. -f2 token; stat -Lc %a password'], volumeMounts: [{name: all, mountPath: /all}]}
";
    let seen = run(&bed, spec).await?;
    for line in ["first", "hidden", "p", "440"] {
        has_line("the log", &seen, line)?;
    }
    ensure!(seen.lines().any(|line| line.len() > 100), "there is no token:\n{seen}");
    Ok(())
}

async fn token_speaks_to_the_api(bed: Bed) -> Result<()> {
    let spec = "
containers:
- name: main
  image: agnhost
  command:
  - sh
  - -c
  - 'cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace; echo; curl -s --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" https://10.200.0.1:6443/api/v1/pods'
";
    let seen = run(&bed, spec).await?;
    has_line("the log", &seen, &bed.name)?;
    // Known to the API server, though without rights.
    has_line(
        "the log",
        &seen,
        &format!("*User \\\"system:serviceaccount:{}:default\\\" cannot list resource*", bed.name),
    )
}

async fn missing_config_map_is_named_then_mounted(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
volumes: [{name: settings, configMap: {name: later}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: settings, mountPath: /settings}]}]
";
    bed.pod("p", spec).await?;
    let failed = bed
        .event(
            "p",
            "FailedMount",
            "MountVolume.SetUp failed for volume \"settings\" : configmap \"later\" not found",
        )
        .await?;
    shows(&failed, &["type=Warning"])?;
    bed.until("p", &["phase=Pending", "c[main].state.waiting.reason=ContainerCreating"]).await?;
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: later}, data: {one: first}}")
        .await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    same("the file", bed.exec("p", "main", &["cat", "/settings/one"]).await?.as_str(), "first")
}

async fn optional_sources(bed: Bed) -> Result<()> {
    let spec = "
volumes:
- {name: a, configMap: {name: none, optional: true}}
- {name: b, secret: {secretName: none, optional: true}}
containers:
- {name: main, image: busybox, command: [sh, -c, 'ls /a /b'], volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]}
";
    same("the folders", run(&bed, spec).await?.as_str(), "/a:\n\n/b:\n")
}

async fn host_path_kinds(bed: Bed) -> Result<()> {
    let base = format!("/var/lib/kubelet/host-{}", bed.name);
    let spec = format!("
volumes:
- {{name: dir, hostPath: {{path: {base}/made, type: DirectoryOrCreate}}}}
- {{name: file, hostPath: {{path: {base}/made-file, type: FileOrCreate}}}}
- {{name: socket, hostPath: {{path: /run/containerd/containerd.sock, type: Socket}}}}
- {{name: device, hostPath: {{path: /dev/null, type: CharDevice}}}}
- {{name: any, hostPath: {{path: {base}-unchecked}}}}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'test -S /socket && test -c /device && test -f /file && echo text > /dir/x && echo text > /any/x && stat -c %a /dir']
  volumeMounts: [{{name: dir, mountPath: /dir}}, {{name: file, mountPath: /file}}, {{name: socket, mountPath: /socket}}, {{name: device, mountPath: /device}}, {{name: any, mountPath: /any}}]
");
    // Two volumes below one folder: it has to be there for the file.
    std::fs::create_dir_all(bed.cluster.on_node(&base))?;
    same("the mode", run(&bed, &spec).await?.as_str(), "755\n")?;
    ensure!(
        bed.cluster.on_node(&format!("{base}/made/x")).exists(),
        "the folder was not the node's"
    );
    Ok(())
}

async fn host_path_of_the_wrong_kind(bed: Bed) -> Result<()> {
    let spec = "
volumes: [{name: v, hostPath: {path: /etc, type: File}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    let message = "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: /etc is not a file";
    shows(&bed.event("p", "FailedMount", message).await?, &["type=Warning"])
}

async fn unsupported_kind_is_named(bed: Bed) -> Result<()> {
    let spec = "
volumes: [{name: far, nfs: {server: 192.0.2.1, path: /exported}}]
containers: [{name: main, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: far, mountPath: /v}]}]
";
    bed.pod("p", spec).await?;
    bed.event("p", "FailedMount", "*\"far\"*").await?;
    bed.until("p", &["phase=Pending", "c[main].state.waiting.reason=ContainerCreating"]).await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await
}

async fn sub_paths(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {one: first, two: second}}")
        .await?;
    let spec = "
volumes: [{name: data, emptyDir: {}}, {name: settings, configMap: {name: settings}}]
initContainers:
- {name: setup, image: busybox, command: [sh, -c, 'mkdir -p /data/a/b; echo deep > /data/a/b/file'], volumeMounts: [{name: data, mountPath: /data}]}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'cat /b/file /one; echo; echo mine > /own/note; ls /whole']
  env: [{name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  volumeMounts:
  - {name: data, mountPath: /b, subPath: a/b}
  - {name: settings, mountPath: /one, subPath: one}
  - {name: data, mountPath: /own, subPathExpr: of-$(ME)}
  - {name: data, mountPath: /whole}
";
    same("the log", run(&bed, spec).await?.as_str(), "deep\nfirst\na\nof-p\n")
}

async fn sub_paths_while_the_config_map_changes(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {one: '0'}}")
        .await?;
    let spec = "
terminationGracePeriodSeconds: 1
restartPolicy: Never
volumes: [{name: settings, configMap: {name: settings}}]
containers:
- {name: a, image: busybox, command: [cat, /one], volumeMounts: [{name: settings, mountPath: /one, subPath: one}]}
- {name: b, image: busybox, command: [cat, /one], volumeMounts: [{name: settings, mountPath: /one, subPath: one}]}
- {name: c, image: busybox, command: [cat, /one], volumeMounts: [{name: settings, mountPath: /one, subPath: one}]}
";
    let editing = async {
        let mut edits = 0_u32;
        loop {
            edits += 1;
            bed.patch(
                "ConfigMap",
                "settings",
                serde_json::json!({"data": {"one": edits.to_string()}}),
            )
            .await?;
        }
    };
    let starting = async {
        for name in ["p0", "p1", "p2", "p3", "p4", "p5"] {
            bed.pod(name, spec).await?;
        }
        for name in ["p0", "p1", "p2", "p3", "p4", "p5"] {
            bed.until(name, &["phase=Succeeded"]).await?;
            let failed = bed.events(name).await?.into_iter().find(|(reason, _)| reason == "Failed");
            anyhow::ensure!(failed.is_none(), "{name}: {failed:?}");
        }
        anyhow::Ok(())
    };
    tokio::select! {
        edited = editing => edited,
        started = starting => started,
    }
}

async fn read_only_mounts(bed: Bed) -> Result<()> {
    let spec = "
volumes: [{name: data, emptyDir: {}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'touch /data/x 2>&1 || echo refused; touch /rw/x && echo allowed']
  volumeMounts: [{name: data, mountPath: /data, readOnly: true}, {name: data, mountPath: /rw}]
";
    let seen = run(&bed, spec).await?;
    has_line("the log", &seen, "refused")?;
    has_line("the log", &seen, "allowed")
}

/// Makes a socket that nobody listens on. Its path may be longer than one that can be bound.
fn make_socket(path: &std::path::Path) -> Result<()> {
    use nix::sys::stat::{Mode, SFlag, mknod};

    Ok(mknod(path, SFlag::S_IFSOCK, Mode::S_IRWXU, 0)?)
}

async fn a_vanished_socket_is_waited_for(bed: Bed) -> Result<()> {
    let path = format!("/var/lib/kubelet/socket-{}", bed.name);
    let socket = bed.cluster.on_node(&path);
    make_socket(&socket)?;
    let spec = format!(
        "
volumes: [{{name: v, hostPath: {{path: {path}, type: Socket}}}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'test -S /v && touch /started && while test -e /started; do sleep 0.2; done']
  volumeMounts: [{{name: v, mountPath: /v}}]
"
    );
    bed.pod("p", &spec).await?;
    bed.until_exec("p", "main", &["ls", "/started"]).await?;

    std::fs::remove_file(&socket)?;
    bed.exec("p", "main", &["rm", "/started"]).await?;
    let waits = "c[main].state.waiting.reason=CreateContainerConfigError";
    bed.until("p", &[waits]).await?;
    let message = format!("*hostPath type check failed: {path} is not a socket file");
    bed.until("p", &[&format!("c[main].state.waiting.message={message}")]).await?;
    ensure!(!socket.exists(), "something was made at {path}");

    make_socket(&socket)?;
    bed.until("p", &["c[main].ready=true", "c[main].restartCount=1"]).await?;
    std::fs::remove_file(&socket)?;
    Ok(())
}

async fn a_volume_below_a_read_only_empty_dir(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: conf}, data: {a: '1'}}").await?;
    let spec = "
volumes: [{name: my, emptyDir: {}}, {name: conf, configMap: {name: conf}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'cat /var/my/conf.d/a /var/my/file']
  volumeMounts:
  - {name: my, mountPath: /var/my, readOnly: true}
  - {name: conf, mountPath: /var/my/conf.d}
  - {name: conf, mountPath: /var/my/file, subPath: a}
";
    same("what it reads", run(&bed, spec).await?.as_str(), "11")
}

async fn an_immutable_config_map_made_again_reaches_new_pods(bed: Bed) -> Result<()> {
    let map = |word: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: words}}, immutable: true, data: {{word: {word}}}}}"
        )
    };
    let spec = "
terminationGracePeriodSeconds: 1
volumes: [{name: v, configMap: {name: words}}]
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  env: [{name: WORD, valueFrom: {configMapKeyRef: {name: words, key: word}}}]
  volumeMounts: [{name: v, mountPath: /v}]
";
    let reads = async |pod: &str| {
        bed.exec(pod, "main", &["sh", "-c", "cat /v/word; echo \" $WORD\""]).await
    };
    bed.create(&map("one")).await?;
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    same("the first pod", reads("p").await?.as_str(), "one one\n")?;

    bed.delete_kind("ConfigMap", "words").await?;
    bed.create(&map("two")).await?;
    bed.pod("q", spec).await?;
    bed.until("q", &["cond[Ready]=True"]).await?;
    same("the second pod", reads("q").await?.as_str(), "two two\n")?;
    same("the first pod, which keeps what it has", reads("p").await?.as_str(), "one one\n")
}
