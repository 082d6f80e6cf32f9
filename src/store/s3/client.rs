//! The client of the AWS SDK: where it connects to, with which credentials, and that it waits and
//! retries nothing by itself.

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, RequestChecksumCalculation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use secrecy::ExposeSecret as _;
use std::time::Duration;

use crate::store::address::S3Address;
use crate::store::s3::limiter::IN_FLIGHT_MAX;
use crate::store::s3::options::{S3Credentials, S3Options};

/// The region of a service that has none to speak of.
const REGION_DEFAULT: &str = "us-east-1";
/// Idle connections are closed before the services do it (AWS: some 20 seconds or more).
const IDLE: Duration = Duration::from_secs(15);

/// Connections over TLS by rustls with ring, and over plain HTTP where the endpoint says so.
pub fn http_client() -> SharedHttpClient {
    let trust = TrustStore::empty().with_native_roots(true);
    let context = TlsContext::builder().with_trust_store(trust).build();
    let builder = aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(Some(IDLE))
        .pool_max_idle_per_host(IN_FLIGHT_MAX)
        .tls_provider(Provider::Rustls(CryptoMode::Ring));
    match context {
        Ok(context) => builder.tls_context(context).build_https(),
        Err(_) => builder.build_https(),
    }
}

/// A client with credentials that nothing was asked of yet: building it anew asks the providers of
/// credentials anew.
pub async fn connect(address: &S3Address, options: &S3Options, http: &SharedHttpClient) -> Client {
    let (config, found_region) = if let Some(credentials) = &options.credentials {
        let config = Builder::new().behavior_version(behavior()).http_client(http.clone());
        (config.credentials_provider(given(credentials)), None)
    } else {
        let found = loader(address, http).load().await;
        (Builder::from(&found), found.region().cloned())
    };
    let named_region = address.region.clone().map(Region::new);
    let region = named_region.or(found_region).unwrap_or(Region::from_static(REGION_DEFAULT));
    let mut config = config.region(region);
    if let Some(endpoint) = &address.endpoint {
        config = config.endpoint_url(endpoint);
    }
    let path_style = address.path_style.unwrap_or(address.endpoint.is_some());
    let stalls = StalledStreamProtectionConfig::enabled()
        .upload_enabled(true)
        // Downloads are watched where their bytes are taken.
        .download_enabled(false)
        .grace_period(options.patience.stall)
        .build();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.patience.connect)
        // The other times depend on the size of a request; they are kept where it is sent.
        .build();
    let config = config
        .force_path_style(path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(stalls)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        // A clock that is wrong is said, not worked around: times decide what is kept.
        .disable_clock_skew_correction(true)
        .build();
    Client::from_conf(config)
}

fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

fn given(credentials: &S3Credentials) -> Credentials {
    Credentials::new(
        &credentials.access_key_id,
        credentials.secret_access_key.expose_secret(),
        credentials.session_token.as_ref().map(|token| token.expose_secret().to_owned()),
        None,
        "holdfast",
    )
}

fn loader(address: &S3Address, http: &SharedHttpClient) -> ConfigLoader {
    let mut loader = aws_config::defaults(behavior()).http_client(http.clone());
    if let Ok(name) = AppName::new("holdfast") {
        loader = loader.app_name(name);
    }
    if let Some(profile) = &address.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &address.region {
        loader = loader.region(Region::new(region.clone()));
    } else if address.endpoint.is_some() {
        // Not the metadata service of the machine: the endpoint is somewhere else, and asking
        // where nobody answers takes seconds.
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &address.profile {
            profile = profile.profile_name(name);
        }
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(profile.build())
            .or_else(Region::new(REGION_DEFAULT));
        loader = loader.region(chain);
    }
    loader
}
