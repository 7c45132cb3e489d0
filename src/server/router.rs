//! Path prefix → application.

use crate::admin::{self, Admin};
use crate::io::Io;
use crate::provision::api::Provision;
use crate::registry::{Registry, UploadBody};
use crate::service::{BodySink, Intake, Request, Response, Service, Wanted};

/// What the main port serves.
pub struct MainPort<I: Io> {
    pub io: I,
    pub registry: Option<Registry<I>>,
    pub provision: Option<Provision<I>>,
    pub admin: Admin,
}

impl<I: Io + Clone + 'static> Service<I::File> for MainPort<I> {
    type Sink = UploadBody<I>;

    async fn begin(&self, request: &Request) -> Intake<I::File, UploadBody<I>> {
        if let Some(response) = self.admin.answer_health(request) {
            return Intake::Answer(response);
        }
        if let Some(response) = self.admin.answer_collection(&self.io, request).await {
            return Intake::Answer(response);
        }
        if let Some(provision) = &self.provision
            && provision.takes(request)
        {
            return provision.begin(request).await;
        }
        let is_registry = request.head.target.segments().next() == Some("v2");
        match &self.registry {
            Some(registry) if is_registry => registry.begin(request).await,
            _ => Intake::Answer(admin::not_found()),
        }
    }
}

/// What the metrics port serves.
pub struct MetricsPort {
    pub admin: Admin,
}

impl<F> Service<F> for MetricsPort {
    type Sink = NoSink;

    async fn begin(&self, request: &Request) -> Intake<F, NoSink> {
        Intake::Answer(self.admin.answer_metrics(request))
    }
}

/// The sink of a service that takes no bodies: there is no value of it.
pub enum NoSink {}

impl<F> BodySink<F> for NoSink {
    async fn spare(&mut self) -> crate::io::Buffer {
        match *self {}
    }

    async fn pour(&mut self, _: crate::io::Buffer) -> Result<(), Response<F>> {
        match *self {}
    }

    async fn pause(&mut self, _: std::time::Duration) -> Result<(), Response<F>> {
        match *self {}
    }

    async fn resume(&mut self) -> Result<(), Response<F>> {
        match *self {}
    }

    fn progressed(&mut self) {
        match *self {}
    }

    fn wanted_by_others(&mut self) -> Wanted {
        match *self {}
    }

    fn patience(&self) -> std::time::Duration {
        match *self {}
    }

    async fn finish(self) -> Response<F> {
        match self {}
    }

    async fn abandon(self) {
        match self {}
    }
}
