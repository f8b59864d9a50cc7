//! Plug-ins as programs: each is the system's shell by another name, with its script as argument.

use std::path::PathBuf;

use super::*;
use crate::config::credential_providers::Variable;

const V1: &str = "credentialprovider.kubelet.k8s.io/v1";
const IMAGE: &str = "r.example.com/team/app";

/// A directory of plug-ins, with a file that scripts write to.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("plug")).expect("a link");
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What scripts have written to the file `said`.
    fn said(&self) -> String {
        std::fs::read_to_string(self.file("said")).unwrap_or_default()
    }

    fn runs(&self) -> usize {
        self.said().lines().count()
    }

    /// A plug-in that runs a script. `$SAID` is the file; the request is the first line of input.
    fn provider(&self, script: &str) -> Provider {
        Provider {
            name: "plug".to_owned(),
            match_images: vec!["*.example.com".to_owned()],
            default_cache_duration: Some(GoDuration::from_secs(3600)),
            api_version: V1.to_owned(),
            args: vec!["-c".to_owned(), script.to_owned(), "plug".to_owned(), "one".to_owned()],
            env: vec![Variable {
                name: "SAID".to_owned(),
                value: self.file("said").display().to_string(),
            }],
            token_attributes: None,
        }
    }

    fn plugins(&self, provider: Provider, accounts: Fake) -> (Plugins, Observed) {
        let runs = Observed::default();
        let seen = Arc::clone(&runs);
        let observer: PluginObserver = Arc::new(move |name: &str, _, failed| {
            seen.lock().push((name.to_owned(), failed));
        });
        let configured = CredentialProviders {
            providers: vec![provider],
            bin_dir: self.0.path().to_owned(),
            hash: String::new(),
        };
        let accounts = Box::new(accounts);
        (Plugins::new(&configured, accounts, Clock::system(), &observer), runs)
    }

    /// Whom a plug-in that runs `script` has credentials for.
    async fn ask(&self, script: &str, image: &str) -> Vec<String> {
        let (plugins, _) = self.plugins(self.provider(script), Fake::default());
        users(&plugins, image).await
    }
}

type Observed = Arc<Mutex<Vec<(String, bool)>>>;

/// Service accounts that are not read from anywhere.
#[derive(Default)]
struct Fake {
    account: ServiceAccount,
    token: &'static str,
}

impl Accounts for Fake {
    fn account<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
        std::future::ready(Ok(self.account.clone())).boxed()
    }

    fn token<'a>(&'a self, wanted: &'a TokenOf) -> BoxFuture<'a, Result<Arc<str>, AccountError>> {
        assert_eq!((wanted.audience.as_str(), wanted.pod_name.as_str()), ("registry", "p"));
        std::future::ready(Ok(self.token.into())).boxed()
    }

    fn forget(&self, _: &PodUid) {}
}

fn pod(account: &str) -> Pod {
    let pod = serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"serviceAccountName": account, "containers": []},
    });
    serde_json::from_value(pod).expect("a pod")
}

async fn users(plugins: &Plugins, image: &str) -> Vec<String> {
    let keyring = plugins.keyring(image, &pod("")).await;
    keyring.lookup(image).into_iter().map(|found| found.credential.username).collect()
}

/// A script that notes its run and answers.
fn answering(fields: &str) -> String {
    let answer = format!(
        r#"{{"kind":"CredentialProviderResponse","apiVersion":"{V1}",{fields},"auth":{{"*.example.com":{{"username":"u","password":"s3cret"}}}}}}"#
    );
    format!("cat >>\"$SAID\"; printf '%s' '{answer}'")
}

#[tokio::test]
async fn a_plugin_is_told_the_image_and_asked_with_its_arguments_and_variables() {
    let folder = Folder::new();
    let script = answering(r#""cacheKeyType":"Image""#) + "; [ \"$1\" = one ] && [ -n \"$PATH\" ]";
    let (plugins, observed) = folder.plugins(folder.provider(&script), Fake::default());

    assert_eq!(users(&plugins, IMAGE).await, ["u"]);
    let request: serde_json::Value = serde_json::from_str(&folder.said()).expect("a request");
    let expected = serde_json::json!({
        "kind": "CredentialProviderRequest", "apiVersion": V1, "image": IMAGE,
    });
    assert_eq!(request, expected);
    assert_eq!(*observed.lock(), [("plug".to_owned(), false)]);
    let found = plugins.keyring(IMAGE, &pod("")).await.lookup(IMAGE);
    assert_eq!(found[0].source, Source::Node);
    assert!(!format!("{plugins:?}{found:?}").contains("s3cret"));

    assert_eq!(users(&plugins, "docker.io/library/nginx").await, [""; 0]);
    assert_eq!(folder.runs(), 1, "other images are not its own");
}

#[tokio::test]
async fn an_answer_is_kept_for_what_it_names() {
    for (fields, same_image, same_registry, all) in [
        (r#""cacheKeyType":"Image""#, 1, 2, 3),
        (r#""cacheKeyType":"Registry""#, 1, 1, 2),
        (r#""cacheKeyType":"Global","cacheDuration":"1h""#, 1, 1, 1),
        (r#""cacheKeyType":"Global","cacheDuration":"0s""#, 2, 3, 4),
    ] {
        let folder = Folder::new();
        let provider = folder.provider(&answering(fields));
        let (plugins, _) = folder.plugins(provider, Fake::default());
        users(&plugins, IMAGE).await;
        for (image, expected) in [
            (IMAGE, same_image),
            ("r.example.com/other", same_registry),
            ("s.example.com/other", all),
        ] {
            assert_eq!(users(&plugins, image).await, ["u"], "{fields}");
            assert_eq!(folder.runs(), expected, "{fields} {image}");
        }
    }
}

#[tokio::test]
async fn without_a_duration_the_configured_one_counts() {
    let folder = Folder::new();
    let mut provider = folder.provider(&answering(r#""cacheKeyType":"Image""#));
    provider.default_cache_duration = Some(GoDuration::ZERO);
    let (plugins, _) = folder.plugins(provider, Fake::default());
    users(&plugins, IMAGE).await;
    users(&plugins, IMAGE).await;
    assert_eq!(folder.runs(), 2);
}

#[tokio::test]
async fn questions_at_the_same_time_are_one_run() {
    let folder = Folder::new();
    let script = answering(r#""cacheKeyType":"Image","cacheDuration":"0s""#) + "; sleep 0.3";
    let (plugins, _) = folder.plugins(folder.provider(&script), Fake::default());
    let (one, other) = tokio::join!(users(&plugins, IMAGE), users(&plugins, IMAGE));
    assert_eq!((one, other), (vec!["u".to_owned()], vec!["u".to_owned()]));
    assert_eq!(folder.runs(), 1);
    users(&plugins, IMAGE).await;
    assert_eq!(folder.runs(), 2, "a later one runs anew");
}

#[tokio::test]
async fn errors_are_upstreams_and_quote_no_answer() {
    let prefix = format!("error execing credential provider plugin plug for image {IMAGE}: ");
    let answer = |version: &str, rest: &str| {
        format!(r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"{version}"{rest}}}'"#)
    };
    for (script, expected) in [
        ("echo why >&2; exit 3".to_owned(), format!("{prefix}exit status 3: why\n")),
        ("kill -9 $$".to_owned(), format!("{prefix}signal: killed: ")),
        (
            "echo s3cret".to_owned(),
            "error reading GVK from response: couldn't get version/kind; json parse error"
                .to_owned(),
        ),
        (
            answer("credentialprovider.kubelet.k8s.io/v1beta1", ""),
            format!(
                "apiVersion from credential plugin response did not match expected \
                 apiVersion:{V1}, actual apiVersion:credentialprovider.kubelet.k8s.io/v1beta1"
            ),
        ),
        (
            answer(V1, r#","auth":{"a":{"username":"u","pass":"s3cret"}}"#),
            "error decoding credential provider plugin response from stdout".to_owned(),
        ),
    ] {
        let folder = Folder::new();
        let observer: PluginObserver = Arc::new(|_, _, _| {});
        let runner =
            Runner::new(&folder.provider(&script), folder.0.path(), observer, Clock::system());
        let question =
            Question { image: IMAGE.to_owned(), token: None, annotations: BTreeMap::new() };
        let error = runner.run(&question).await.expect_err("it fails");
        assert_eq!(error.to_string(), expected);
    }

    let folder = Folder::new();
    let unknown = answering(r#""cacheKeyType":"Pod""#);
    assert_eq!(folder.ask(&unknown, IMAGE).await, [""; 0], "no such key");
    assert_eq!(folder.ask("exit 1", IMAGE).await, [""; 0]);
}

/// A plug-in that is told of service accounts.
fn with_account(folder: &Folder, script: &str, cache_type: &str, required: bool) -> Provider {
    Provider {
        token_attributes: Some(TokenAttributes {
            service_account_token_audience: "registry".to_owned(),
            cache_type: cache_type.to_owned(),
            require_service_account: Some(required),
            required_service_account_annotation_keys: vec!["example.com/role".to_owned()],
            optional_service_account_annotation_keys: vec!["example.com/tier".to_owned()],
        }),
        ..folder.provider(script)
    }
}

fn account(annotations: &[(&str, &str)], token: &'static str) -> Fake {
    let annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    Fake {
        account: ServiceAccount { uid: "a-uid".to_owned(), annotations: annotations.collect() },
        token,
    }
}

#[tokio::test]
async fn a_plugin_is_told_of_the_service_account() {
    let folder = Folder::new();
    let script = answering(r#""cacheKeyType":"Registry""#);
    let provider = with_account(&folder, &script, "ServiceAccount", true);
    let annotations = [("example.com/role", "puller"), ("other", "x")];
    let (plugins, _) = folder.plugins(provider, account(&annotations, "t0ken"));

    let found = plugins.keyring(IMAGE, &pod("builder")).await.lookup(IMAGE);
    let name = AccountName {
        namespace: "n".to_owned(),
        name: "builder".to_owned(),
        uid: "a-uid".to_owned(),
    };
    assert_eq!(found[0].source, Source::ServiceAccount(name));
    let request: serde_json::Value = serde_json::from_str(&folder.said()).expect("a request");
    let expected = serde_json::json!({
        "kind": "CredentialProviderRequest", "apiVersion": V1, "image": IMAGE,
        "serviceAccountToken": "t0ken",
        "serviceAccountAnnotations": {"example.com/role": "puller"},
    });
    assert_eq!(request, expected);

    plugins.keyring(IMAGE, &pod("builder")).await;
    assert_eq!(folder.runs(), 1, "it is kept for the account");
    plugins.keyring(IMAGE, &pod("other")).await;
    assert_eq!(folder.runs(), 2, "and not for another one");
    plugins.keyring(IMAGE, &pod("")).await;
    assert_eq!(folder.runs(), 2, "a pod without one is not asked for");
}

#[tokio::test]
async fn without_the_required_annotation_a_plugin_is_not_asked() {
    let folder = Folder::new();
    let script = answering(r#""cacheKeyType":"Image""#);
    let provider = with_account(&folder, &script, "ServiceAccount", true);
    let (plugins, _) = folder.plugins(provider, account(&[("example.com/tier", "x")], "t0ken"));
    assert_eq!(plugins.keyring(IMAGE, &pod("builder")).await.lookup(IMAGE).len(), 0);
    assert_eq!(folder.runs(), 0);
}

#[tokio::test]
async fn a_token_as_the_password_is_kept_with_the_token_only() {
    for (cache_type, expected) in [("ServiceAccount", 0), ("Token", 1)] {
        let folder = Folder::new();
        let script = answering(r#""cacheKeyType":"Image""#);
        let provider = with_account(&folder, &script, cache_type, true);
        let annotations = [("example.com/role", "puller")];
        let (plugins, _) = folder.plugins(provider, account(&annotations, "s3cret"));
        let found = plugins.keyring(IMAGE, &pod("builder")).await.lookup(IMAGE);
        assert_eq!(found.len(), expected, "{cache_type}");
    }
}

#[tokio::test]
async fn a_pod_without_an_account_is_asked_for_if_none_is_required() {
    let folder = Folder::new();
    let mut provider =
        with_account(&folder, &answering(r#""cacheKeyType":"Image""#), "Token", false);
    if let Some(attributes) = &mut provider.token_attributes {
        attributes.required_service_account_annotation_keys.clear();
    }
    let (plugins, _) = folder.plugins(provider, account(&[], "t0ken"));
    let found = plugins.keyring(IMAGE, &pod("")).await.lookup(IMAGE);
    assert_eq!(found[0].source, Source::Node);
    assert!(!folder.said().contains("t0ken"));
}
