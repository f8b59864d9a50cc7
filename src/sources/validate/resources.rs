//! Requests and limits of containers and of the pod. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::names;
use super::problems::Problems;
use crate::model::quantity::Amount;

type Quantities = BTreeMap<String, Quantity>;

/// The resources that the API knows without a domain.
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
/// Those of them that are counted.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// What the resources belong to: each may name other ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Container,
    Pod,
}

pub(super) fn container(
    problems: &mut Problems,
    path: &str,
    resources: &ResourceRequirements,
    claims: &BTreeSet<String>,
) {
    requirements(problems, path, resources, Owner::Container);
    claim_names(problems, &format!("{path}.claims"), resources, claims);
}

/// Checks the resources of the pod as a whole, and those of its containers against them.
pub(super) fn pod(problems: &mut Problems, spec: &PodSpec) {
    let Some(resources) = &spec.resources else { return };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return problems.forbidden("spec.resources", "may not be set for a windows pod");
    }
    if resources.claims.is_some() {
        let why = "claims may not be set for Resources at pod-level";
        problems.forbidden("spec.resources.claims", why);
    }
    requirements(problems, "spec.resources", resources, Owner::Pod);

    let requests = together(spec, |resources| resources.requests.as_ref());
    for (name, request) in resources.requests.iter().flatten() {
        let sum = requests.get(name.as_str()).filter(|sum| sum.amount > amount(request));
        let Some(sum) = sum.map(Sum::written) else { continue };
        let why = format!("must be greater than or equal to aggregate container requests of {sum}");
        problems.invalid(format!("spec.resources.requests[{name}]"), canonical(request), why);
    }

    // Memory in huge pages cannot be overcommitted.
    let limits = together(spec, |resources| resources.limits.as_ref());
    for (name, limit) in resources.limits.iter().flatten().filter(|(name, _)| is_huge(name)) {
        let sum = limits.get(name.as_str()).filter(|sum| sum.amount > amount(limit));
        let Some(sum) = sum.map(Sum::written) else { continue };
        let why = format!("must be greater than or equal to aggregate container limits of {sum}");
        problems.invalid(format!("spec.resources.limits[{name}]"), canonical(limit), why);
    }

    for (index, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.iter().flat_map(|found| &found.limits).flatten();
        for (name, limit) in limits {
            let of_pod = resources.limits.as_ref().and_then(|limits| limits.get(name));
            if let Some(of_pod) = of_pod.filter(|of_pod| amount(limit) > amount(of_pod)) {
                let path = format!("spec.resources.containers[{index}][{name}].limits");
                let most = canonical(of_pod);
                let why = format!("must be less than or equal to pod limits of {most}");
                problems.invalid(path, canonical(limit), why);
            }
        }
    }
}

/// An amount of a resource. It is written as its first part was.
#[derive(Clone, Copy)]
struct Sum<'a> {
    amount: Amount,
    form: &'a str,
}

impl Sum<'_> {
    fn written(&self) -> String {
        written(self.amount, self.form)
    }
}

type Sums<'a> = BTreeMap<&'a str, Sum<'a>>;

/// Returns what the containers take together, at most: an init container runs beside the sidecars
/// before it only, and the regular containers beside all of them.
fn together<'a>(
    spec: &'a PodSpec,
    part: impl Fn(&'a ResourceRequirements) -> Option<&'a Quantities>,
) -> Sums<'a> {
    fn add<'a>(sums: &mut Sums<'a>, more: &Sums<'a>) {
        for (name, more) in more {
            let sum = sums.entry(name).or_insert(Sum { amount: Amount::ZERO, form: more.form });
            sum.amount = sum.amount + more.amount;
        }
    }
    let own = |container: &'a Container| -> Sums<'a> {
        let quantities = container.resources.as_ref().and_then(&part).into_iter().flatten();
        let sum = |quantity: &'a Quantity| Sum { amount: amount(quantity), form: &quantity.0 };
        quantities.map(|(name, quantity)| (name.as_str(), sum(quantity))).collect()
    };

    let mut sums = Sums::new();
    for container in &spec.containers {
        add(&mut sums, &own(container));
    }
    let mut sidecars = Sums::new();
    let mut most = Sums::new();
    for container in spec.init_containers.iter().flatten() {
        let mut now = own(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sums, &now);
            add(&mut sidecars, &now);
            now.clone_from(&sidecars);
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut most, &now);
    }
    raise(&mut sums, &most);
    sums
}

/// Raises each amount to that of another list.
fn raise<'a>(sums: &mut Sums<'a>, other: &Sums<'a>) {
    for (name, other) in other {
        let sum = sums.entry(name).or_insert(*other);
        if other.amount > sum.amount {
            *sum = *other;
        }
    }
}

/// Checks what a pod takes besides its containers.
pub(super) fn overhead(problems: &mut Problems, overhead: &Quantities) {
    let resources =
        ResourceRequirements { limits: Some(overhead.clone()), ..ResourceRequirements::default() };
    requirements(problems, "spec.overhead", &resources, Owner::Container);
}

fn requirements(
    problems: &mut Problems,
    path: &str,
    resources: &ResourceRequirements,
    owner: Owner,
) {
    let empty = Quantities::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    for (name, limit) in limits {
        one(problems, &format!("{path}.limits[{name}]"), name, limit, owner);
        huge_pages(problems, &format!("{path}.limits[{name}]"), name, limit);
    }
    for (name, request) in requests {
        one(problems, &format!("{path}.requests[{name}]"), name, request, owner);
        against_limit(problems, path, name, request, limits.get(name));
        huge_pages(problems, &format!("{path}.requests[{name}]"), name, request);
    }

    let names = || limits.keys().chain(requests.keys());
    let has_main = names().any(|name| matches!(name.as_str(), "cpu" | "memory"));
    if !has_main && names().any(|name| is_huge(name)) {
        problems.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Checks the name of a resource and its quantity.
fn one(problems: &mut Problems, path: &str, name: &str, quantity: &Quantity, owner: Owner) {
    resource_name(problems, path, name, owner);
    match Amount::parse(&quantity.0) {
        Err(error) => problems.invalid(path, &quantity.0, error.problem),
        Ok(found) => {
            if found < Amount::ZERO {
                let why = "must be greater than or equal to 0";
                problems.invalid(path, canonical(quantity), why);
            }
            let is_counted = COUNTED.contains(&name) || is_extended(name);
            if is_counted && found.nano() % 1_000_000_000 != 0 {
                problems.invalid(path, canonical(quantity), "must be an integer");
            }
        }
    }
}

fn resource_name(problems: &mut Problems, path: &str, name: &str, owner: Owner) {
    let is_plain = !name.contains('/');
    let is_quota = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    let is_standard = STANDARD.contains(&name) || is_quota;
    let has_form = names::qualified(name).is_empty();
    let is_wrong = !has_form || (is_plain && !is_standard);
    problems.name(path, name, names::qualified);
    if has_form && is_wrong {
        let why = "must be a standard resource type or fully qualified";
        problems.invalid(path, name, why);
    }
    match owner {
        Owner::Pod if is_wrong => {}
        Owner::Pod => {
            let is_supported = matches!(name, "cpu" | "memory") || is_huge(name);
            if !is_supported {
                problems.one_of(path, Some(name), &["cpu", "hugepages-", "memory"]);
            }
        }
        Owner::Container if is_plain => {
            let is_own = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge(name);
            if !is_own {
                problems.invalid(path, name, "must be a standard resource for containers");
            }
        }
        Owner::Container => {
            if !is_native(name) && !is_extended(name) {
                let why = "doesn't follow extended resource name standard";
                problems.invalid(path, name, why);
            }
        }
    }
}

/// Checks that a request does not exceed its limit, or is its limit if the resource cannot be
/// overcommitted.
fn against_limit(
    problems: &mut Problems,
    path: &str,
    name: &str,
    request: &Quantity,
    limit: Option<&Quantity>,
) {
    let may_differ = is_native(name) && !is_huge(name);
    let Some(limit) = limit else {
        if !may_differ {
            let why = "Limit must be set for non overcommitable resources";
            problems.required_for(format!("{path}.limits"), why);
        }
        return;
    };
    let (asked, most) = (amount(request), amount(limit));
    let relation = if !may_differ && asked != most {
        "equal to"
    } else if asked > most {
        "less than or equal to"
    } else {
        return;
    };
    let why = format!("must be {relation} {name} limit of {}", canonical(limit));
    problems.invalid(format!("{path}.requests"), canonical(request), why);
}

/// Checks that memory in huge pages is a number of pages.
fn huge_pages(problems: &mut Problems, path: &str, name: &str, quantity: &Quantity) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let size = Amount::parse(size).unwrap_or_default().units();
    let wanted = amount(quantity).units();
    if size <= 0 || wanted % size != 0 {
        let quantity = canonical(quantity);
        let why = format!("{quantity} is not positive integer multiple of {name}");
        problems.invalid(path, quantity, why);
    }
}

fn claim_names(
    problems: &mut Problems,
    path: &str,
    resources: &ResourceRequirements,
    of_pod: &BTreeSet<String>,
) {
    let mut seen = BTreeSet::new();
    for (index, ResourceClaim { name, request }) in resources.claims.iter().flatten().enumerate() {
        let path = format!("{path}[{index}]");
        if name.is_empty() {
            problems.required(path);
            continue;
        }
        let mut key = name.clone();
        if let Some(request) = request.as_deref().filter(|request| !request.is_empty()) {
            problems.name(format!("{path}.request"), request, names::label);
            key = format!("{name}/{request}");
        }
        if seen.contains(name) || !seen.insert(key.clone()) {
            problems.duplicate(&path, &key);
        }
        if !of_pod.contains(name) {
            let list: Vec<&str> = of_pod.iter().map(String::as_str).collect();
            let list = if list.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", list.join(", "))
            };
            problems.0.push(format!(
                "{path}: Not found: {name:?}: must be one of the names in \
                 pod.spec.resourceClaims{list}"
            ));
        }
    }
}

/// Returns a quantity as Go writes it: `1Gi` of `1024Mi`, `500m` of `0.5`. A text that is none
/// stays as it is.
pub(super) fn canonical(quantity: &Quantity) -> String {
    let text = quantity.0.trim();
    Amount::parse(text).map_or_else(|_| quantity.0.clone(), |amount| written(amount, text))
}

/// Writes an amount in the form of `text`: with powers of two, of ten, or an exponent.
fn written(amount: Amount, text: &str) -> String {
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

    let nano = amount.nano();
    if nano == 0 {
        return "0".to_owned();
    }
    // Less than 1024 is written as a decimal number, whatever it was.
    if text.ends_with('i') && nano.abs() >= 1024 * 1_000_000_000 {
        let whole = i128::from(amount.units());
        return scaled(whole, 1024, &BINARY);
    }
    let has_exponent =
        text.contains(['e', 'E']) && text.ends_with(|end: char| end.is_ascii_digit());
    if has_exponent {
        let (mut value, mut exponent) = (nano, -9);
        while value % 1000 == 0 {
            value /= 1000;
            exponent += 3;
        }
        let exponent = if exponent == 0 { String::new() } else { format!("e{exponent}") };
        return format!("{value}{exponent}");
    }
    scaled(nano, 1000, &DECIMAL)
}

/// Writes a number with the largest suffix that leaves it whole.
fn scaled(mut value: i128, step: i128, suffixes: &[&str]) -> String {
    let mut suffix = 0;
    while value % step == 0 && suffix + 1 < suffixes.len() {
        value /= step;
        suffix += 1;
    }
    format!("{value}{}", suffixes[suffix])
}

fn amount(quantity: &Quantity) -> Amount {
    Amount::parse(&quantity.0).unwrap_or_default()
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Returns true for the resources of Kubernetes itself.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Returns true for a resource that a device plugin or an administrator adds.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}
