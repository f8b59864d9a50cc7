//! Exceptions from the laws of `measures`, each with its reason. One that is none any more fails the test.

/// One exception.
pub(super) struct Exception {
    /// The place, as the law prints it.
    pub(super) place: &'static str,
    /// Why it is none of what the law is against.
    pub(super) reason: &'static str,
}

pub(super) const METHODS: [Exception; 0] = [];
pub(super) const FIELDS: [Exception; 4] = [
    Exception {
        place: "src/dispatch/mod.rs::Dispatch",
        reason: "one task owns the whole table; the parts that decide (door, allocations, table) are types already",
    },
    Exception {
        place: "src/node/config.rs::NodeConfig",
        reason: "configuration: what the Node object is made from, read once",
    },
    Exception {
        place: "src/pleg/task.rs::State",
        reason: "one task owns the picture of the runtime and the moments at which it is read again",
    },
    Exception {
        place: "src/pods/request/input.rs::ContainerInput",
        reason: "the request of a container has as many sources, each fetched by another part",
    },
];
pub(super) const BOOLEANS: [Exception; 5] = [
    Exception {
        place: "src/linux/machine.rs::Kernel",
        reason: "facts of the kernel, each true or false by itself",
    },
    Exception {
        place: "src/node/config.rs::NodeConfig",
        reason: "configuration: switches that the operator sets one by one",
    },
    Exception {
        place: "src/pods/request/mod.rs::Settings",
        reason: "configuration and facts of the kernel, each true or false by itself",
    },
    Exception {
        place: "src/dispatch/streams.rs::Channels",
        reason: "the four streams of a session, as the protocol asks for them one by one",
    },
    Exception {
        place: "src/volumes/plan.rs::Volume",
        reason: "facts about a volume that come from the spec and from the disk independently",
    },
];
pub(super) const CIRCLES: [Exception; 2] = [
    Exception {
        place: "src/config/flags/fields.rs, src/config/flags/table.rs",
        reason: "the table of flags names their fields, and the fields are found by the table",
    },
    Exception {
        place: "src/config/gates.rs, src/config/gates_table.rs",
        reason: "the table is data of its one reader, kept apart for its length",
    },
];
