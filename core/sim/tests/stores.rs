//! Every store keeps the contract: memory, files, a real S3 server and our loopback server.

use std::sync::Arc;

use replicate::blob::{self, SharedBlobStore, conformance};
use replicate::config::StoreLocation;
use replicate::disk::RealDisk;
use replicate_loopback::LoopbackS3;
use replicate_sim::servers::{ACCESS_KEY, SECRET_KEY, VersityGw, location};

fn open(location: &StoreLocation) -> SharedBlobStore {
    blob::open(location, Arc::new(RealDisk)).expect("a store")
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    conformance::run(|name| open(&StoreLocation::Memory(format!("stores/{name}")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_the_contract() {
    let root = tempfile::tempdir().expect("a folder");
    conformance::run(|name| open(&StoreLocation::File(root.path().join(name)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_keeps_the_contract() {
    let server = VersityGw::start();
    conformance::run(|name| open(&StoreLocation::S3(server.location("stores", name)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_prefix_keeps_the_contract() {
    let server = VersityGw::start();
    conformance::run(|name| {
        let bucket = name.replace('_', "-");
        server.create_bucket(&bucket);
        open(&StoreLocation::S3(location(&server.endpoint(), &bucket, "")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_server_keeps_the_contract() {
    let root = tempfile::tempdir().expect("a folder");
    let server = LoopbackS3::start(root.path(), ACCESS_KEY, SECRET_KEY).expect("a server");
    server.create_bucket("stores").expect("a bucket");
    conformance::run(|name| open(&StoreLocation::S3(location(&server.endpoint(), "stores", name)))).await;
}
