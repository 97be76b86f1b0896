//! What the table of routes says of a route for the people who call it. Role, limits and rate come from the row.

use utoipa::ToSchema;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema};
use utoipa::openapi::{Content, Ref, RefOr, Required, Response, ResponseBuilder};

use super::headers;
use super::plain::string;
use crate::api::problem_types::ProblemType;

/// The chapters of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Tag {
    Sessions,
    Accounts,
    Customers,
    Events,
    Projections,
    Operation,
}

impl Tag {
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Sessions => "Log-in, log-out, the sessions of an account",
            Self::Accounts => "Accounts, and the service keys with which programs get tokens",
            Self::Customers => "Create, read, update and delete customers",
            Self::Events => "The log: who changed what, when, from where and why",
            Self::Projections => "The read tables that follow the log",
            Self::Operation => "Health, metrics, public keys",
        }
    }
}

/// A named schema.
pub(super) type NamedSchema = (String, RefOr<Schema>);

/// The documentation of a route.
pub struct Doc {
    pub(super) tag: Tag,
    /// The name of the route for generated clients, unique and never changed.
    pub(super) operation_id: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<RequestBody>,
    pub(super) answers: Vec<(u16, Response)>,
    pub(super) problems: Vec<&'static ProblemType>,
    pub(super) schemas: Vec<NamedSchema>,
}

impl Doc {
    pub(super) fn new(
        tag: Tag,
        operation_id: &'static str,
        summary: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            tag,
            operation_id,
            summary,
            description,
            parameters: vec![],
            body: None,
            answers: vec![],
            problems: vec![],
            schemas: vec![],
        }
    }

    /// A parameter of the path, with its schema.
    pub(super) fn path(self, name: &str, description: &str, schema: ObjectBuilder) -> Self {
        self.parameter(ParameterIn::Path, name, description, schema)
    }

    /// An optional query parameter.
    pub(super) fn query(self, name: &str, description: &str, schema: ObjectBuilder) -> Self {
        self.parameter(ParameterIn::Query, name, description, schema)
    }

    /// A query parameter that must be given.
    pub(super) fn required_query(
        mut self,
        name: &str,
        description: &str,
        schema: ObjectBuilder,
    ) -> Self {
        self = self.query(name, description, schema);
        if let Some(parameter) = self.parameters.last_mut() {
            parameter.required = Required::True;
        }
        self
    }

    /// Request headers that the route reads; see [`headers`].
    pub(super) fn headers(mut self, names: &[&'static str]) -> Self {
        for name in names {
            let (description, schema) = headers::of_request(name);
            self = self.parameter(ParameterIn::Header, name, description, schema);
        }
        self
    }

    fn parameter(
        mut self,
        place: ParameterIn,
        name: &str,
        description: &str,
        schema: ObjectBuilder,
    ) -> Self {
        let is_path = matches!(place, ParameterIn::Path);
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(if is_path { Required::True } else { Required::False })
            .description(Some(description))
            .schema(Some(schema));
        self.parameters.push(parameter.build());
        self
    }

    /// A body of JSON.
    pub(super) fn json_body<T: ToSchema>(mut self) -> Self {
        let content = Content::new(Some(self.schema::<T>()));
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        self.body = Some(body.content("application/json", content).build());
        self
    }

    /// A body that is a form.
    pub(super) fn form_body<T: ToSchema>(mut self) -> Self {
        let content = Content::new(Some(self.schema::<T>()));
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        self.body = Some(body.content("application/x-www-form-urlencoded", content).build());
        self
    }

    /// A body of another type, as text.
    pub(super) fn text_body(mut self, types: &[&str]) -> Self {
        let mut of_types = RequestBodyBuilder::new().required(Some(Required::True));
        for media_type in types {
            of_types = of_types.content(*media_type, Content::new(Some(string())));
        }
        self.body = Some(of_types.build());
        self
    }

    /// An answer of JSON, with the headers that it has besides those of every answer.
    pub(super) fn json<T: ToSchema>(
        self,
        status: u16,
        description: &str,
        headers: &[&'static str],
    ) -> Self {
        self.contents::<T>(status, description, &["application/json"], headers)
    }

    /// An answer whose body has one of these types and this schema.
    pub(super) fn contents<T: ToSchema>(
        mut self,
        status: u16,
        description: &str,
        types: &[&str],
        headers: &[&'static str],
    ) -> Self {
        let schema = self.schema::<T>();
        let contents = types.iter().map(|name| (*name, Content::new(Some(schema.clone()))));
        let contents = contents.collect::<Vec<_>>();
        self.answer(status, description, contents, headers)
    }

    /// Another shape of the last answer, which is of JSON.
    pub(super) fn or_json<T: ToSchema>(mut self) -> Self {
        let other = self.schema::<T>();
        let last = self.answers.last_mut().and_then(|(_, answer)| {
            let content = answer.content.get_mut("application/json")?;
            if let RefOr::T(content) = content { content.schema.as_mut() } else { None }
        });
        if let Some(schema) = last {
            *schema = OneOfBuilder::new().item(schema.clone()).item(other).into();
        }
        self
    }

    /// Another form of the last answer.
    pub(super) fn also<T: ToSchema>(mut self, media_type: &str) -> Self {
        let content = Content::new(Some(self.schema::<T>()));
        self.also_content(media_type, content)
    }

    /// A form of the last answer that is a list.
    pub(super) fn also_list<T: ToSchema>(mut self, media_type: &str) -> Self {
        let items = self.schema::<T>();
        self.also_content(media_type, Content::new(Some(ArrayBuilder::new().items(items))))
    }

    /// A form of text of the last answer.
    pub(super) fn also_text(self, media_type: &str) -> Self {
        self.also_content(media_type, Content::new(Some(string())))
    }

    fn also_content(mut self, media_type: &str, content: Content) -> Self {
        if let Some((_, answer)) = self.answers.last_mut() {
            answer.content.insert(media_type.to_owned(), RefOr::T(content));
        }
        self
    }

    /// An answer of text.
    pub(super) fn text(
        self,
        status: u16,
        description: &str,
        media_type: &str,
        headers: &[&'static str],
    ) -> Self {
        self.answer(status, description, vec![(media_type, Content::new(Some(string())))], headers)
    }

    /// An answer without a body.
    pub(super) fn empty(self, status: u16, description: &str, headers: &[&'static str]) -> Self {
        self.answer(status, description, vec![], headers)
    }

    fn answer(
        mut self,
        status: u16,
        description: &str,
        contents: Vec<(&str, Content)>,
        names: &[&'static str],
    ) -> Self {
        let mut answer = ResponseBuilder::new().description(description);
        for (media_type, content) in contents {
            answer = answer.content(media_type, content);
        }
        for name in headers::OF_EVERY_ANSWER.iter().chain(names) {
            answer = answer.header_ref(*name, headers::reference(name));
        }
        self.answers.push((status, answer.build()));
        self
    }

    /// The media types of the answers.
    pub(in crate::api) fn media_types(&self) -> Vec<String> {
        let types = self.answers.iter().flat_map(|(_, answer)| answer.content.keys().cloned());
        types.collect()
    }

    /// Problems besides those that follow from the row.
    pub(super) fn problems(mut self, problems: &[&'static ProblemType]) -> Self {
        self.problems.extend(problems);
        self
    }

    /// A reference to a schema, which the document then has.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        add_schema::<T>(&mut self.schemas).into()
    }
}

/// Adds a schema with those that it refers to, and returns a reference to it.
pub(super) fn add_schema<T: ToSchema>(schemas: &mut Vec<NamedSchema>) -> Ref {
    let name = T::name().into_owned();
    schemas.push((name.clone(), T::schema()));
    T::schemas(schemas);
    Ref::from_schema_name(name)
}
