//! OCI Distribution: decides what each request to `/v2/` comes to, and moves no bytes.
//!
//! A request goes [`route`] → access → one function named after its endpoint, in the file of its
//! group. Every refusal is a [`RegistryError`] and becomes an answer in [`error`] alone.

mod blobs;
mod catalog;
pub mod error;
mod manifests;
mod page;
mod place;
mod referrers;
pub mod route;
mod tags;
mod uploads;

use std::sync::Arc;

use async_lock::Semaphore;
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::access::{Access, Permission, Refusal};
use crate::config::RegistryConfig;
use crate::http1::ResponseHead;
use crate::io::{BufferPool, Io};
use crate::service::{Intake, Request, Response, Service};
use crate::store::Store;
use crate::telemetry::{CoreMetrics, RouteClass};
use error::RegistryError;
use route::{Route, RouteError};
pub use uploads::UploadBody;

type Answer<I> = Response<<I as Io>::File>;
type Taken<I> = Intake<<I as Io>::File, UploadBody<I>>;

/// The registry as one core serves it.
#[derive(Clone)]
pub struct Registry<I: Io> {
    store: Store<I>,
    access: Arc<Access>,
    config: Arc<RegistryConfig>,
    /// Bodies that may be read at once, over all cores.
    slots: Arc<Semaphore>,
    buffers: BufferPool,
    metrics: Arc<CoreMetrics>,
}

impl<I: Io> Registry<I> {
    /// `slots` holds one permit for each upload body that may be read at once.
    pub fn new(
        store: Store<I>,
        access: Arc<Access>,
        config: Arc<RegistryConfig>,
        slots: Arc<Semaphore>,
        buffers: BufferPool,
        metrics: Arc<CoreMetrics>,
    ) -> Self {
        Self {
            store,
            access,
            config,
            slots,
            buffers,
            metrics,
        }
    }

    async fn dispatch(&self, request: &Request, route: Route) -> Result<Taken<I>, RegistryError> {
        let answer = match route {
            Route::Ping => Ok(self.ping()),
            Route::ListRepositories => self.list_repositories(request).await,
            Route::ListExtensions => Ok(self.list_extensions()),
            Route::GetBlob { repository, digest } => {
                self.get_blob(request, &repository, digest).await
            }
            Route::DeleteBlob { repository, digest } => self.delete_blob(&repository, digest).await,
            Route::GetManifest {
                repository,
                reference,
            } => self.get_manifest(request, &repository, reference).await,
            Route::PutManifest {
                repository,
                reference,
            } => {
                return self.put_manifest(request, repository, reference);
            }
            Route::DeleteManifest {
                repository,
                reference,
            } => self.delete_manifest(&repository, reference).await,
            Route::StartUpload { repository } => {
                return self.start_upload(request, repository).await;
            }
            Route::AppendUpload { repository, upload } => {
                return self.append_upload(request, repository, upload).await;
            }
            Route::FinishUpload { repository, upload } => {
                return self.finish_upload(request, repository, upload).await;
            }
            Route::UploadStatus { repository, upload } => {
                self.upload_status(&repository, upload).await
            }
            Route::CancelUpload { repository, upload } => {
                self.cancel_upload(&repository, upload).await
            }
            Route::ListTags { repository } => self.list_tags(request, repository).await,
            Route::Referrers { repository, digest } => {
                self.list_referrers(request, &repository, digest).await
            }
        };
        answer.map(Intake::Answer)
    }

    /// end-1
    fn ping(&self) -> Answer<I> {
        let head = ResponseHead::new(StatusCode::OK).with("Content-Type", "application/json");
        Response::bytes(RouteClass::Ping, head, Bytes::from_static(b"{}"))
    }

    /// The answer to a refused request; an internal cause goes to the log and nowhere else.
    fn refusal(&self, route: RouteClass, error: RegistryError) -> Answer<I> {
        if let RegistryError::Internal(cause) = &error {
            tracing::error!(error = %cause, "request failed");
        }
        let (head, body) = error.answer();
        Response::bytes(route, head, body)
    }

    /// Whether the request may be answered at all. A wrong password costs a hash, which is
    /// computed off the cores.
    async fn authorize(&self, request: &Request, permission: Permission) -> Result<(), Refusal> {
        let header = request.head.header("authorization");
        let io = self.store.io();
        let admitted = self.access.admit(io, header, permission, request.client);
        admitted.await.map(|_| ())
    }
}

impl<I: Io> Service<I::File> for Registry<I> {
    type Sink = UploadBody<I>;

    async fn begin(&self, request: &Request) -> Taken<I> {
        let head = &request.head;
        let segments: Vec<&str> = head.target.segments().collect();
        let route = Route::parse(&head.method, &segments);
        let class = class_of(&route, &head.method);
        let permission = permission_of(&route, &head.method);
        let taken = match self.authorize(request, permission).await {
            Err(refusal) => Ok(Intake::Answer(Response::refusal(
                class,
                refusal.status(),
                refusal.headers(),
                refusal.body(),
            ))),
            Ok(()) => match route {
                Ok(route) => self.dispatch(request, route).await,
                Err(error) => Err(RegistryError::Route(error)),
            },
        };
        taken.unwrap_or_else(|error| Intake::Answer(self.refusal(class, error)))
    }
}

fn permission_of(route: &Result<Route, RouteError>, method: &Method) -> Permission {
    match (route, method) {
        (Ok(Route::Ping), _) => Permission::Ping,
        (Ok(Route::ListRepositories), _) => Permission::Catalog,
        (_, &Method::GET | &Method::HEAD) => Permission::Pull,
        (_, &Method::DELETE) => Permission::Delete,
        _ => Permission::Push,
    }
}

fn class_of(route: &Result<Route, RouteError>, method: &Method) -> RouteClass {
    let is_head = *method == Method::HEAD;
    match route {
        Ok(Route::Ping) => RouteClass::Ping,
        Ok(Route::ListRepositories) => RouteClass::Catalog,
        Ok(Route::GetBlob { .. }) if is_head => RouteClass::BlobHead,
        Ok(Route::GetBlob { .. }) => RouteClass::BlobGet,
        Ok(Route::DeleteBlob { .. }) => RouteClass::BlobDelete,
        Ok(Route::GetManifest { .. }) if is_head => RouteClass::ManifestHead,
        Ok(Route::GetManifest { .. }) => RouteClass::ManifestGet,
        Ok(Route::PutManifest { .. }) => RouteClass::ManifestPut,
        Ok(Route::DeleteManifest { .. }) => RouteClass::ManifestDelete,
        Ok(Route::StartUpload { .. }) => RouteClass::UploadStart,
        Ok(Route::AppendUpload { .. }) => RouteClass::UploadChunk,
        Ok(Route::FinishUpload { .. }) => RouteClass::UploadFinish,
        Ok(Route::UploadStatus { .. }) => RouteClass::UploadStatus,
        Ok(Route::CancelUpload { .. }) => RouteClass::UploadCancel,
        Ok(Route::ListTags { .. }) => RouteClass::TagList,
        Ok(Route::Referrers { .. }) => RouteClass::Referrers,
        Ok(Route::ListExtensions) | Err(_) => RouteClass::Other,
    }
}
