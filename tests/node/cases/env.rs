//! What a container finds in its environment, and what holds it back when a source is missing.

use anyhow::{Result, ensure};

use crate::bed::{Bed, has_line, shows};
use crate::look::text;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(fields_of_the_pod),
        case(resource_fields),
        case(config_maps_and_secrets),
        case(missing_config_map_then_created),
        case(missing_key_of_a_secret),
        case(services_of_the_namespace),
        case(no_service_links),
        case(files_of_variables),
        case(key_that_a_file_does_not_have),
    ]
}

async fn fields_of_the_pod(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
containers:
- name: main
  image: busybox
  command: [env]
  env:
  - {name: PLAIN, value: some text}
  - {name: JOINED, value: '$(PLAIN) and $$(PLAIN) and $(LATER)'}
  - {name: LATER, value: x}
  - {name: MY_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: MY_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: MY_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
  - {name: MY_LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['colour']\"}}}
  - {name: MY_NOTE, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}
  - {name: MY_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  - {name: MY_ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
  - {name: MY_HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
  - {name: MY_HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
  - {name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  - {name: MY_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
";
    bed.labelled_pod("p", "{labels: {colour: green}, annotations: {note: hello}}", spec).await?;
    let pod = bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    for line in [
        "PLAIN=some text".to_owned(),
        "JOINED=some text and $(PLAIN) and $(LATER)".to_owned(),
        "MY_NAME=p".to_owned(),
        format!("MY_NAMESPACE={}", bed.name),
        format!("MY_UID={}", text(&pod, "metadata.uid")),
        "MY_LABEL=green".to_owned(),
        "MY_NOTE=hello".to_owned(),
        "MY_NODE=n1".to_owned(),
        "MY_ACCOUNT=default".to_owned(),
        "MY_HOST_IP=10.200.0.11".to_owned(),
        "MY_HOST_IPS=10.200.0.11".to_owned(),
        "MY_IP=10.244.1.*".to_owned(),
        "MY_IPS=10.244.1.*".to_owned(),
        "HOSTNAME=p".to_owned(),
        "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
        "KUBERNETES_SERVICE_PORT_HTTPS=443".to_owned(),
        "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443".to_owned(),
    ] {
        has_line("env", &seen, &line)?;
    }
    Ok(())
}

async fn resource_fields(bed: Bed) -> Result<()> {
    let spec = "
restartPolicy: Never
containers:
- name: main
  image: busybox
  command: [env]
  resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 1500m, memory: 48Mi}}
  env:
  - {name: CPU_UP, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: CPU_MILLI, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
  - {name: BYTES, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
  - {name: MEBIBYTES, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
  - {name: UNSET, valueFrom: {resourceFieldRef: {containerName: other, resource: limits.memory}}}
- {name: other, image: busybox, command: ['true']}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded", "status.qosClass=Burstable"]).await?;
    let seen = bed.logs("p", "main").await?;
    for line in ["CPU_UP=2", "CPU_MILLI=50", "BYTES=50331648", "MEBIBYTES=16"] {
        has_line("env", &seen, line)?;
    }
    // Without a limit of its own a container may use what the node may give to pods.
    let node = bed.get("Node", "n1").await?;
    let kibibytes: u64 = text(&node, "status.allocatable.memory").trim_end_matches("Ki").parse()?;
    has_line("env", &seen, &format!("UNSET={}", kibibytes * 1024))
}

async fn config_maps_and_secrets(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {size: '42', name: from-map, not-a-name: odd}}")
        .await?;
    bed.create(
        "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {name: from-secret, password: hidden}}",
    )
    .await?;
    let spec = "
restartPolicy: Never
containers:
- name: main
  image: busybox
  command: [env]
  envFrom:
  - configMapRef: {name: settings}
  - {prefix: S_, secretRef: {name: keys}}
  - configMapRef: {name: not-there, optional: true}
  env:
  - {name: name, value: from-the-spec}
  - {name: SIZE, valueFrom: {configMapKeyRef: {name: settings, key: size}}}
  - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
  - {name: NOTHING, valueFrom: {secretKeyRef: {name: keys, key: none, optional: true}}}
  - {name: JOINED, value: 'size is $(size)'}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    for line in [
        "size=42",
        "name=from-the-spec",
        "not-a-name=odd",
        "S_name=from-secret",
        "SIZE=42",
        "PASSWORD=hidden",
        "JOINED=size is 42",
    ] {
        has_line("env", &seen, line)?;
    }
    ensure!(
        !seen.contains("NOTHING"),
        "an optional key that does not exist made a variable:\n{seen}"
    );
    Ok(())
}

async fn missing_config_map_then_created(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- {name: main, image: busybox, command: [sleep, '1000'], envFrom: [{configMapRef: {name: later}}]}
";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Pending",
            "c[main].state.waiting.reason=CreateContainerConfigError",
            "c[main].state.waiting.message=configmap \"later\" not found",
        ],
    )
    .await?;
    shows(
        &bed.event("p", "Failed", "Error: configmap \"later\" not found").await?,
        &["type=Warning"],
    )?;
    bed.create("{apiVersion: v1, kind: ConfigMap, metadata: {name: later}, data: {KEY: value}}")
        .await?;
    bed.until("p", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    has_line("env", &bed.exec("p", "main", &["env"]).await?, "KEY=value")
}

async fn missing_key_of_a_secret(bed: Bed) -> Result<()> {
    bed.create("{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {a: b}}")
        .await?;
    let spec = "
containers:
- {name: main, image: busybox, command: [sleep, '1000'], env: [{name: K, valueFrom: {secretKeyRef: {name: keys, key: none}}}]}
";
    bed.pod("p", spec).await?;
    let message = format!("couldn't find key none in Secret {}/keys", bed.name);
    bed.until(
        "p",
        &[
            "c[main].state.waiting.reason=CreateContainerConfigError",
            &format!("c[main].state.waiting.message={message}"),
        ],
    )
    .await?;
    bed.event("p", "Failed", &format!("Error: {message}")).await?;
    Ok(())
}

async fn services_of_the_namespace(bed: Bed) -> Result<()> {
    let service = bed
        .create("{apiVersion: v1, kind: Service, metadata: {name: web-front}, spec: {ports: [{name: http, port: 80, targetPort: 8080}]}}")
        .await?;
    let ip = text(&service, "spec.clusterIP");
    // The kubelet hears of services apart from pods: one that starts in the same moment may still
    // miss it.
    for attempt in 1.. {
        let name = format!("p{attempt}");
        bed.pod(
            &name,
            "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [env]}]}",
        )
        .await?;
        bed.until(&name, &["phase=Succeeded"]).await?;
        let seen = bed.logs(&name, "main").await?;
        if !seen.contains("WEB_FRONT") && attempt < 5 {
            continue;
        }
        for line in [
            format!("WEB_FRONT_SERVICE_HOST={ip}"),
            "WEB_FRONT_SERVICE_PORT=80".to_owned(),
            "WEB_FRONT_SERVICE_PORT_HTTP=80".to_owned(),
            format!("WEB_FRONT_PORT=tcp://{ip}:80"),
            format!("WEB_FRONT_PORT_80_TCP_ADDR={ip}"),
            "WEB_FRONT_PORT_80_TCP_PROTO=tcp".to_owned(),
        ] {
            has_line("env", &seen, &line)?;
        }
        break;
    }
    Ok(())
}

async fn no_service_links(bed: Bed) -> Result<()> {
    bed.create(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}",
    )
    .await?;
    let spec = "{restartPolicy: Never, enableServiceLinks: false, containers: [{name: main, image: busybox, command: [env]}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    ensure!(!seen.contains("WEB_SERVICE"), "the environment names a service:\n{seen}");
    has_line("env", &seen, "KUBERNETES_SERVICE_HOST=10.96.0.1")
}

/// A pod whose init container writes `/data/env`, and whose container takes `key` of it.
fn with_file(content: &str, key: &str) -> String {
    format!(
        "
restartPolicy: Never
volumes: [{{name: data, emptyDir: {{}}}}]
initContainers:
- name: writer
  image: busybox
  command: [sh, -c, 'printf \"$CONTENT\" > /data/env']
  env: [{{name: CONTENT, value: \"{content}\"}}]
  volumeMounts: [{{name: data, mountPath: /data}}]
containers:
- name: main
  image: busybox
  command: [env]
  env:
  - {{name: FROM_FILE, valueFrom: {{fileKeyRef: {{volumeName: data, path: env, key: {key}}}}}}}
  - {{name: TWICE, value: '$(FROM_FILE) $(FROM_FILE)'}}
  - {{name: NONE, valueFrom: {{fileKeyRef: {{volumeName: data, path: env, key: OTHER, optional: true}}}}}}
"
    )
}

async fn files_of_variables(bed: Bed) -> Result<()> {
    bed.pod("p", &with_file("# a note\\\\nA='1 2' # here\\\\nB='x'\\\\n", "A")).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    let seen = bed.logs("p", "main").await?;
    has_line("env", &seen, "FROM_FILE=1 2")?;
    has_line("env", &seen, "TWICE=1 2 1 2")?;
    ensure!(!seen.lines().any(|line| line.starts_with("NONE")), "the optional one is set:\n{seen}");
    Ok(())
}

async fn key_that_a_file_does_not_have(bed: Bed) -> Result<()> {
    let pod = bed.pod("p", &with_file("A='1'\\\\n", "B")).await?;
    let path = format!(
        "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~empty-dir/data/env",
        text(&pod, "metadata.uid")
    );
    let message = format!("environment variable key \"B\" not found in file \"{path}\"");
    let waiting = format!("c[main].state.waiting.message={message}");
    bed.until("p", &["c[main].state.waiting.reason=CreateContainerConfigError", &waiting]).await?;
    bed.event("p", "Failed", &format!("Error: {message}")).await?;
    Ok(())
}
