//! An API server in memory, for unit and simulation tests: objects of any kind by their path,
//! watches, patches, faults.
//!
//! It speaks HTTP to a real `kube::Client`, so that what is tested is what runs. It knows of kinds
//! only what tests need: graceful deletion of pods, tokens, resource versions, UIDs as
//! preconditions. It checks no permissions.

mod watches;
mod witness;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::watches::watch_answer;
use self::witness::Ended;
pub use self::witness::{ApiEffect, ApiWitness};
use super::client::Clients;
use crate::clock::Clock;

type Key = (String, String, String);
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Lists whose items are merged by a key in a strategic merge patch.
const MERGE_KEYS: [(&str, &str); 12] = [
    ("conditions", "type"),
    ("addresses", "type"),
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("podIPs", "ip"),
    ("hostIPs", "ip"),
    ("tolerations", "key"),
    ("taints", "key"),
    ("ownerReferences", "uid"),
];

#[derive(Debug)]
struct Change {
    version: u64,
    kind: &'static str,
    key: Key,
    object: Value,
}

#[derive(Debug)]
struct Fault {
    method: String,
    path: String,
    code: u16,
    times: u32,
}

#[derive(Debug, Default)]
struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    log: Vec<Change>,
    requests: Vec<String>,
    faults: Vec<Fault>,
    down: bool,
    no_streaming: bool,
    open_watches: usize,
    /// Watches that were opened before that many drops are broken.
    drops: u64,
    /// Whether watches tell nothing new for now.
    stalled: bool,
    /// What happened before that version is forgotten.
    oldest: u64,
}

struct Shared {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    clock: Mutex<Clock>,
    witness: Mutex<Option<Arc<dyn ApiWitness>>>,
}

impl Shared {
    fn clock(&self) -> Clock {
        *self.clock.lock()
    }
}

/// The server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct FakeApi {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let store = self.shared.store.lock();
        f.debug_struct("FakeApi")
            .field("version", &store.version)
            .field("objects", &store.objects.len())
            .finish()
    }
}

impl FakeApi {
    /// An empty server.
    pub fn new(clock: Clock) -> Self {
        let shared = Shared {
            store: Mutex::default(),
            changed: watch::Sender::new(0),
            clock: Mutex::new(clock),
            witness: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A client of it. Must be called within a tokio runtime.
    pub fn client(&self) -> kube::Client {
        let shared = Arc::clone(&self.shared);
        let service =
            tower::service_fn(move |request: Request<Body>| handle(Arc::clone(&shared), request));
        kube::Client::new(service, "default")
    }

    /// Clients of it for a node.
    pub fn clients(&self, node_name: &str) -> Clients {
        Clients::from_client(&self.client(), node_name)
    }

    /// Puts an object there, as another client would: made when it is new, else replaced.
    /// `collection` is like `api/v1/pods` or `apis/node.k8s.io/v1/runtimeclasses`. Answers the
    /// object as it is stored.
    pub fn put(&self, collection: &str, mut object: Value) -> Value {
        let mut store = self.shared.store.lock();
        let key = key_of(collection, &object);
        let known = store.objects.get(&key).cloned();
        if let Some(known) = &known {
            for field in ["uid", "creationTimestamp"] {
                if object["metadata"][field].is_null() {
                    object["metadata"][field] = known["metadata"][field].clone();
                }
            }
        }
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let stored = store.save(kind, key, object, &self.shared.clock());
        self.notify(&store);
        stored
    }

    /// Takes an object away at once, as another client would.
    pub fn remove(&self, collection: &str, namespace: &str, name: &str) {
        let mut store = self.shared.store.lock();
        store.delete(&(collection.to_owned(), namespace.to_owned(), name.to_owned()));
        self.notify(&store);
    }

    /// An object.
    pub fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
        self.shared.store.lock().objects.get(&key).cloned()
    }

    /// All objects of a collection.
    pub fn list(&self, collection: &str) -> Vec<Value> {
        let store = self.shared.store.lock();
        store
            .objects
            .iter()
            .filter(|(key, _)| key.0 == collection)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Waits until `look` finds something in a collection. For tests under paused time.
    ///
    /// # Panics
    /// After an hour of the test's time.
    pub async fn wait_for<T>(
        &self,
        collection: &str,
        mut look: impl FnMut(&[Value]) -> Option<T>,
    ) -> T {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = look(&self.list(collection)) {
                    return found;
                }
                // The sender lives in `self`.
                drop(changed.changed().await);
            }
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(3600), wait).await;
        found.unwrap_or_else(|_| unreachable_in_time(collection, &self.list(collection)))
    }

    /// Every request so far: `METHOD /path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.store.lock().requests.clone()
    }

    /// How many watches are open.
    pub fn open_watches(&self) -> usize {
        self.shared.store.lock().open_watches
    }

    /// Whether every request fails as if the network were gone. Open watches break.
    pub fn set_down(&self, down: bool) {
        let mut store = self.shared.store.lock();
        store.down = down;
        self.notify(&store);
    }

    /// Breaks every watch that is open. With `forget` the past cannot be asked for any more.
    pub fn drop_watches(&self, forget: bool) {
        let mut store = self.shared.store.lock();
        store.drops += 1;
        if forget {
            store.oldest = store.version;
        }
        self.notify(&store);
    }

    /// Whether watches tell nothing new for now, as behind a stale cache.
    pub fn stall_watches(&self, stalled: bool) {
        let mut store = self.shared.store.lock();
        store.stalled = stalled;
        self.notify(&store);
    }

    /// Deletes an object as a user does: a pod that has not ended gets its grace period.
    pub fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let target = Target {
            collection: collection.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            subresource: None,
        };
        let mut store = self.shared.store.lock();
        let phase =
            store.objects.get(&target.key()).map(|object| object["status"]["phase"].clone());
        let is_over = phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        let options = if is_over { json!({"gracePeriodSeconds": 0}) } else { json!({}) };
        drop(delete(&mut store, &target, &options, &self.shared.clock()));
        self.notify(&store);
    }

    /// Has every request shown to `witness`, which may interfere.
    pub fn set_witness(&self, witness: Arc<dyn ApiWitness>) {
        *self.shared.witness.lock() = Some(witness);
    }

    /// Goes on under another clock: the server outlives its clients.
    pub fn set_clock(&self, clock: Clock) {
        *self.shared.clock.lock() = clock;
    }

    /// Makes the server one that cannot stream lists.
    pub fn refuse_streaming(&self) {
        self.shared.store.lock().no_streaming = true;
    }

    /// The next `times` requests of that method whose path contains `path` are answered with
    /// `code`.
    pub fn fail(&self, method: &str, path: &str, code: u16, times: u32) {
        let fault = Fault { method: method.to_owned(), path: path.to_owned(), code, times };
        self.shared.store.lock().faults.push(fault);
    }

    fn notify(&self, store: &Store) {
        notify(&self.shared, store);
    }
}

#[expect(clippy::panic, reason = "only tests call it, and this is how they fail")]
fn unreachable_in_time(collection: &str, objects: &[Value]) -> ! {
    panic!("{collection} did not become as expected: {objects:#?}")
}

fn notify(shared: &Shared, store: &Store) {
    // Also wakes watches when the server goes down without a new version.
    let version = store.version;
    shared.changed.send_modify(|seen| *seen = version);
}

impl Store {
    fn save(&mut self, kind: &'static str, key: Key, mut object: Value, clock: &Clock) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", self.version));
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(timestamp(clock, 0));
        }
        self.objects.insert(key.clone(), object.clone());
        self.log.push(Change { version: self.version, kind, key, object: object.clone() });
        object
    }

    fn delete(&mut self, key: &Key) -> Option<Value> {
        let mut object = self.objects.remove(key)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push(Change {
            version: self.version,
            kind: "DELETED",
            key: key.clone(),
            object: object.clone(),
        });
        Some(object)
    }

    fn fault(&mut self, method: &Method, path: &str) -> Option<u16> {
        let hit = |fault: &&mut Fault| {
            fault.times > 0 && fault.method == method.as_str() && path.contains(&fault.path)
        };
        let fault = self.faults.iter_mut().find(hit)?;
        fault.times -= 1;
        Some(fault.code)
    }
}

/// What a request is about.
struct Target {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let prefix = match parts.next()? {
            "api" => format!("api/{}", parts.next()?),
            "apis" => format!("apis/{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut rest: Vec<&str> = parts.collect();
        let mut namespace = None;
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = Some(rest[1].to_owned());
            rest.drain(..2);
        }
        Some(Self {
            collection: format!("{prefix}/{}", rest.first()?),
            namespace,
            name: rest.get(1).map(|name| (*name).to_owned()),
            subresource: rest.get(2).map(|name| (*name).to_owned()),
        })
    }

    fn key(&self) -> Key {
        (
            self.collection.clone(),
            self.namespace.clone().unwrap_or_default(),
            self.name.clone().unwrap_or_default(),
        )
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Body>) -> Result<Answer, tower::BoxError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect();
    let body = body.collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let method = parts.method.as_str();
    let witness = shared.witness.lock().clone();
    let _ended = witness.clone().map(|witness| {
        let (method, path, body) = (method.to_owned(), path.clone(), body.clone());
        Ended { witness, method, path, body }
    });
    let effect = witness.as_ref().and_then(|witness| witness.request(method, &path, &body));
    match effect {
        Some(ApiEffect::Fail(code)) => {
            return Ok(failure(code, "InternalError", "a fault of the test"));
        }
        Some(ApiEffect::Break) => return Err("connection reset by peer".into()),
        Some(ApiEffect::Delay(wait)) => tokio::time::sleep(wait).await,
        Some(ApiEffect::LoseAnswer | ApiEffect::DelayAnswer(_)) | None => {}
    }
    {
        let mut store = shared.store.lock();
        let uri = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        store.requests.push(format!("{} {uri}", parts.method));
        if store.down {
            return Err("connection refused".into());
        }
        if let Some(code) = store.fault(&parts.method, &path) {
            return Ok(failure(code, "InternalError", "a fault of the test"));
        }
    }
    let Some(target) = Target::parse(&path) else {
        return Ok(failure(404, "NotFound", "no such path"));
    };
    if parts.method == Method::GET && query.get("watch").is_some_and(|watch| watch == "true") {
        return Ok(watch_answer(&shared, target, &query));
    }
    let strategic = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/strategic-merge-patch"));
    let asked = Asked { method: parts.method, path, target, body, strategic };
    let answer = serve(&shared, asked, &query);
    match effect {
        Some(ApiEffect::LoseAnswer) => return Err("connection reset by peer".into()),
        Some(ApiEffect::DelayAnswer(wait)) => tokio::time::sleep(wait).await,
        Some(ApiEffect::Fail(_) | ApiEffect::Break | ApiEffect::Delay(_)) | None => {}
    }
    Ok(answer)
}

/// A request that is not a watch.
struct Asked {
    method: Method,
    path: String,
    target: Target,
    body: Value,
    strategic: bool,
}

fn serve(shared: &Shared, asked: Asked, query: &BTreeMap<String, String>) -> Answer {
    let Asked { method, path, target, body, strategic } = asked;
    let mut store = shared.store.lock();
    let witness = shared.witness.lock().clone().filter(|_| method != Method::GET);
    if let Some(witness) = shared.witness.lock().as_ref().filter(|_| method == Method::GET) {
        let is_meant = |key: &Key| target.name.is_none() || *key == target.key();
        let told =
            selected(&store, &target, query.get("fieldSelector")).filter(|(key, _)| is_meant(key));
        let kind = if target.name.is_none() { "ADDED" } else { "READ" };
        told.for_each(|(_, object)| witness.told(kind, object));
    }
    if let Some(witness) = &witness {
        witness.write(method.as_str(), &path, &body, store.objects.get(&target.key()));
    }
    let before = store.version;
    let answer = match method {
        Method::GET => read(&store, &target, query),
        Method::POST => create(&mut store, &target, body, &shared.clock()),
        Method::PATCH => patch(&mut store, &target, &body, strategic, &shared.clock()),
        Method::DELETE => delete(&mut store, &target, &body, &shared.clock()),
        _ => failure(405, "MethodNotAllowed", "the fake does not know this method"),
    };
    if let (Some(witness), Some(change)) =
        (&witness, store.log.last().filter(|change| change.version > before))
    {
        witness.written(method.as_str(), &path, &change.object);
    }
    notify(shared, &store);
    answer
}

fn read(store: &Store, target: &Target, query: &BTreeMap<String, String>) -> Answer {
    if target.name.is_some() {
        return match store.objects.get(&target.key()) {
            Some(object) => success(200, object),
            None => not_found(target),
        };
    }
    let items: Vec<&Value> =
        selected(store, target, query.get("fieldSelector")).map(|(_, object)| object).collect();
    success(
        200,
        &json!({"kind": "List", "apiVersion": "v1", "items": items,
        "metadata": {"resourceVersion": store.version.to_string()}}),
    )
}

fn create(store: &mut Store, target: &Target, mut body: Value, clock: &Clock) -> Answer {
    if target.subresource.as_deref() == Some("token") {
        return token(&body, clock);
    }
    if let Some(namespace) = &target.namespace {
        body["metadata"]["namespace"] = json!(namespace);
    }
    // The API server gives UIDs itself.
    body["metadata"]["uid"] = Value::Null;
    let key = key_of(&target.collection, &body);
    if store.objects.contains_key(&key) {
        let message = format!("{} \"{}\" already exists", resource(&target.collection), key.2);
        return failure(409, "AlreadyExists", &message);
    }
    success(201, &store.save("ADDED", key, body, clock))
}

fn token(body: &Value, clock: &Clock) -> Answer {
    use base64::Engine as _;
    let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    let claims =
        json!({"iat": clock.now().wall.as_second(), "exp": clock.now().wall.as_second() + seconds});
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    let mut answer = body.clone();
    answer["status"] = json!({"token": format!("header.{payload}.signature"), "expirationTimestamp": timestamp(clock, seconds)});
    success(201, &answer)
}

fn patch(
    store: &mut Store,
    target: &Target,
    body: &Value,
    strategic: bool,
    clock: &Clock,
) -> Answer {
    let Some(mut object) = store.objects.get(&target.key()).cloned() else {
        return not_found(target);
    };
    for field in ["uid", "resourceVersion"] {
        let wanted = &body["metadata"][field];
        if !wanted.is_null() && *wanted != object["metadata"][field] {
            return failure(
                409,
                "Conflict",
                &format!("the {field} in the precondition does not match"),
            );
        }
    }
    merge(&mut object, body, strategic);
    success(200, &store.save("MODIFIED", target.key(), object, clock))
}

fn delete(store: &mut Store, target: &Target, options: &Value, clock: &Clock) -> Answer {
    let Some(mut object) = store.objects.get(&target.key()).cloned() else {
        return not_found(target);
    };
    let wanted = &options["preconditions"]["uid"];
    if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
        return failure(409, "Conflict", "the UID in the precondition does not match");
    }
    let is_pod = target.collection == "api/v1/pods";
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let grace = options["gracePeriodSeconds"].as_i64().unwrap_or(if is_pod { own } else { 0 });
    if !is_pod || grace == 0 {
        let gone = store.delete(&target.key()).unwrap_or(object);
        return success(200, &gone);
    }
    object["metadata"]["deletionTimestamp"] = json!(timestamp(clock, grace));
    object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    success(200, &store.save("MODIFIED", target.key(), object, clock))
}

fn selected<'a>(
    store: &'a Store,
    target: &'a Target,
    selector: Option<&'a String>,
) -> impl Iterator<Item = (&'a Key, &'a Value)> {
    store.objects.iter().filter(move |(key, object)| matches(key, object, target, selector))
}

fn matches(key: &Key, object: &Value, target: &Target, selector: Option<&String>) -> bool {
    key.0 == target.collection
        && target.namespace.as_ref().is_none_or(|namespace| *namespace == key.1)
        && selector.is_none_or(|selector| {
            selector.split(',').filter_map(|term| term.split_once('=')).all(|(field, value)| {
                let pointer = format!("/{}", field.replace('.', "/"));
                object.pointer(&pointer).and_then(Value::as_str) == Some(value)
            })
        })
}

/// Applies a patch: JSON merge, or strategic merge with the keys of [`MERGE_KEYS`].
fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if name.starts_with('$') {
            continue;
        }
        let merge_key = MERGE_KEYS.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
        match (value, merge_key) {
            (Value::Null, _) => {
                if let Some(target) = target.as_object_mut() {
                    target.remove(name);
                }
            }
            (Value::Object(_), _) => merge(&mut target[name], value, strategic),
            (Value::Array(items), Some(key)) if strategic => {
                merge_list(&mut target[name], items, key);
            }
            _ => target[name] = value.clone(),
        }
    }
}

fn merge_list(target: &mut Value, items: &[Value], key: &str) {
    let replace = items.iter().any(|item| item["$patch"] == "replace");
    let mut list =
        if replace { Vec::new() } else { target.as_array().cloned().unwrap_or_default() };
    for item in items.iter().filter(|item| item["$patch"] != "replace") {
        let position = list.iter().position(|known| known[key] == item[key]);
        if item["$patch"] == "delete" {
            list.retain(|known| known[key] != item[key]);
        } else if let Some(position) = position.filter(|_| !replace) {
            merge(&mut list[position], item, true);
        } else {
            list.push(item.clone());
        }
    }
    *target = Value::Array(list);
}

fn key_of(collection: &str, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (collection.to_owned(), text("namespace"), text("name"))
}

fn resource(collection: &str) -> &str {
    collection.rsplit('/').next().unwrap_or(collection)
}

fn not_found(target: &Target) -> Answer {
    let name = target.name.as_deref().unwrap_or_default();
    failure(404, "NotFound", &format!("{} \"{name}\" not found", resource(&target.collection)))
}

fn failure(code: u16, reason: &str, message: &str) -> Answer {
    success(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "metadata": {}}),
    )
}

fn success(code: u16, body: &Value) -> Answer {
    answer(code, Full::new(Bytes::from(body.to_string())).boxed_unsync())
}

fn answer(code: u16, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

fn timestamp(clock: &Clock, later: i64) -> String {
    let second = clock.now().wall.as_second().saturating_add(later);
    jiff::Timestamp::from_second(second)
        .unwrap_or_default()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use kube::Api;
    use kube::api::{DeleteParams, Patch, PatchParams};
    use serde_json::json;

    use super::FakeApi;
    use crate::apiserver::objects::{self, ChangeDetection, ObjectError};
    use crate::clock::Clock;

    fn fake() -> FakeApi {
        FakeApi::new(Clock::starting_at(jiff::Timestamp::UNIX_EPOCH))
    }

    #[tokio::test(start_paused = true)]
    async fn patches_and_deletes_like_an_api_server() {
        let fake = fake();
        fake.put(
            "api/v1/pods",
            json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": []},
            "status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}}),
        );
        let api: Api<Pod> = Api::namespaced(fake.client(), "d");
        let patch = json!({"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "B", "$patch": "delete"}]}});
        let pod = api
            .patch_status("p", &PatchParams::default(), &Patch::Strategic(&patch))
            .await
            .expect("patched");
        let conditions = pod.status.and_then(|status| status.conditions).expect("conditions");
        assert_eq!((conditions.len(), conditions[0].status.as_str()), (1, "False"));
        let stale = json!({"metadata": {"uid": "other"}});
        assert!(api.patch("p", &PatchParams::default(), &Patch::Merge(&stale)).await.is_err());
        api.delete("p", &DeleteParams::default()).await.expect("deleted");
        assert!(
            fake.get("api/v1/pods", "d", "p").expect("it stops")["metadata"]["deletionTimestamp"]
                .is_string()
        );
        api.delete("p", &DeleteParams::default().grace_period(0)).await.expect("deleted");
        assert_eq!(fake.get("api/v1/pods", "d", "p"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_watched_once_for_all_who_use_them() {
        let fake = fake();
        let (cache, _task) = objects::new(&fake.clients("n"), ChangeDetection::Watch);
        let mut first = cache.config_map("d", "web");
        let missing = first.get(Duration::from_secs(1)).await.expect_err("it is not there");
        assert_eq!(missing.to_string(), "configmap \"web\" not found");
        assert!(missing.is_not_found());
        let second = cache.config_map("d", "web");
        fake.put(
            "api/v1/configmaps",
            json!({"metadata": {"name": "web", "namespace": "d"}, "data": {"k": "v1"}}),
        );
        first.changed().await;
        let value = second.latest().expect("known").expect("found");
        assert_eq!(value.data.as_ref().map(|data| data["k"].as_str()), Some("v1"));
        assert_eq!(fake.open_watches(), 1);
        fake.remove("api/v1/configmaps", "d", "web");
        first.changed().await;
        assert!(matches!(first.latest(), Some(Err(ObjectError::NotFound { .. }))));
        drop((first, second));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.open_watches(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cached_object_is_read_again_when_its_time_is_over() {
        let fake = fake();
        let map = |value: &str| json!({"metadata": {"name": "web", "namespace": "d"}, "data": {"k": value}});
        fake.put("api/v1/configmaps", map("v1"));
        let (node, view) =
            tokio::sync::watch::channel(crate::apiserver::nodes::NodeView::default());
        let sync = Duration::from_secs(10);
        let detection = ChangeDetection::Cache { sync, node: view };
        let (cache, _task) = objects::new(&fake.clients("n"), detection);
        let mut subscription = cache.config_map("d", "web");
        let value = |subscription: &objects::Subscription<ConfigMap>| {
            let object = subscription.latest().expect("known").expect("found");
            object.data.as_ref().expect("data")["k"].clone()
        };
        subscription.get(Duration::from_secs(1)).await.expect("found");
        fake.put("api/v1/configmaps", map("v2"));
        tokio::time::sleep(Duration::from_secs(55)).await;
        assert_eq!(value(&subscription), "v1", "a minute where the node says nothing");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!((value(&subscription).as_str(), fake.open_watches()), ("v2", 0));
        let mut own = k8s_openapi::api::core::v1::Node::default();
        own.metadata.annotations =
            Some([("node.alpha.kubernetes.io/ttl".to_owned(), "0".to_owned())].into());
        node.send_replace(crate::apiserver::nodes::NodeView {
            synced: true,
            node: Some(std::sync::Arc::new(own)),
        });
        tokio::time::sleep(Duration::from_secs(61)).await;
        fake.put("api/v1/configmaps", map("v3"));
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(value(&subscription), "v3", "as often as pods are looked at");
        fake.put("api/v1/configmaps", map("v4"));
        let second = cache.config_map("d", "web");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(value(&second), "v4", "a new pod never gets an old value");
    }

    #[tokio::test(start_paused = true)]
    async fn an_immutable_object_is_not_watched() {
        let fake = fake();
        fake.put(
            "api/v1/configmaps",
            json!({"metadata": {"name": "web", "namespace": "d"}, "immutable": true}),
        );
        let (cache, _task) = objects::new(&fake.clients("n"), ChangeDetection::Watch);
        let mut subscription = cache.config_map("d", "web");
        subscription.get(Duration::from_secs(1)).await.expect("found");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.open_watches(), 0);
        assert!(matches!(subscription.latest(), Some(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_immutable_object_that_was_made_again_is_read_by_whoever_comes_later() {
        let fake = fake();
        let map = |uid: &str, value: &str| {
            let meta = json!({"metadata": {"name": "web", "namespace": "d", "uid": uid}});
            let mut map = meta;
            map["immutable"] = json!(true);
            map["data"] = json!({"k": value});
            map
        };
        let value =
            |object: std::sync::Arc<ConfigMap>| object.data.as_ref().expect("data")["k"].clone();
        let second = Duration::from_secs(1);
        fake.put("api/v1/configmaps", map("1", "one"));
        let (cache, _task) = objects::new(&fake.clients("n"), ChangeDetection::Watch);
        let mut first = cache.config_map("d", "web");
        assert_eq!(value(first.get(second).await.expect("found")), "one");
        tokio::time::sleep(second).await;

        fake.remove("api/v1/configmaps", "d", "web");
        let mut gone = cache.config_map("d", "web");
        assert_eq!(value(gone.get(second).await.expect("as upstream")), "one");

        fake.put("api/v1/configmaps", map("2", "two"));
        tokio::time::sleep(second).await;
        let mut later = cache.config_map("d", "web");
        assert_eq!(value(later.get(second).await.expect("found")), "two");
        assert_eq!(
            value(gone.latest().expect("known").expect("found")),
            "two",
            "it was waited for"
        );
        assert_eq!(value(first.latest().expect("known").expect("found")), "one", "it runs already");

        tokio::time::sleep(second).await;
        assert_eq!(fake.open_watches(), 0, "nothing is left to watch");
        drop((gone, later));
        fake.remove("api/v1/configmaps", "d", "web");
        for _restart in 0..2 {
            let mut restarted = cache.config_map("d", "web");
            let found = restarted.get(second).await.expect("as upstream");
            assert_eq!(value(found), "one", "a pod that runs still has it");
        }
        fake.put("api/v1/configmaps", map("3", "three"));
        fake.set_down(true);
        let mut offline = cache.config_map("d", "web");
        assert_eq!(value(offline.get(Duration::from_secs(10)).await.expect("as upstream")), "one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_waited_out_and_then_told() {
        let fake = fake();
        fake.put("api/v1/configmaps", json!({"metadata": {"name": "web", "namespace": "d"}}));
        fake.fail("GET", "configmaps", 403, 3);
        let (cache, _task) = objects::new(&fake.clients("n"), ChangeDetection::Watch);
        let value: Result<std::sync::Arc<ConfigMap>, _> =
            cache.config_map("d", "web").get(Duration::from_secs(60)).await;
        value.expect("the node authorizer has learnt of the pod");
        fake.fail("GET", "secrets", 403, 1000);
        let error =
            cache.secret("d", "key").get(Duration::from_secs(5)).await.expect_err("forbidden");
        assert_eq!(error.to_string(), "failed to fetch secret d/key: a fault of the test");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_streaming_lists_works_too_and_outages_end() {
        let fake = fake();
        fake.refuse_streaming();
        fake.put(
            "api/v1/configmaps",
            json!({"metadata": {"name": "web", "namespace": "d"}, "data": {"k": "v1"}}),
        );
        let (cache, _task) = objects::new(&fake.clients("n"), ChangeDetection::Watch);
        let mut subscription = cache.config_map("d", "web");
        subscription.get(Duration::from_secs(5)).await.expect("found");
        fake.set_down(true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(matches!(subscription.latest(), Some(Ok(_))), "the value survives the outage");
        fake.put(
            "api/v1/configmaps",
            json!({"metadata": {"name": "web", "namespace": "d"}, "data": {"k": "v2"}}),
        );
        fake.set_down(false);
        loop {
            subscription.changed().await;
            let value = subscription.latest().expect("known").expect("found");
            if value.data.as_ref().is_some_and(|data| data["k"] == "v2") {
                break;
            }
        }
    }
}
