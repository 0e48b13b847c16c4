package assayimages

# Every image of a Pod, or of what holds a Pod's template, is asked about, once.
# Whatever is not an answer is a violation: no answer at all, an error of the
# provider, an error about the image, an image that was left out, and every value
# but an allow of the very image that was asked about.

specs contains spec if {
	some path in [["spec"], ["spec", "template", "spec"], ["spec", "jobTemplate", "spec", "template", "spec"]]
	spec := {"now": object.get(input.review, array.concat(["object"], path), {}), "before": object.get(input.review, array.concat(["oldObject"], path), {})}
}

# images names each use of an image: an update is asked about what it changes.
images(spec) := {[list, object.get(c, "name", ""), object.get(c, "image", "")] |
	some list in ["containers", "initContainers", "ephemeralContainers"]
	some c in object.get(spec, list, [])
} | {["volumes", object.get(v, "name", ""), object.get(v, ["image", "reference"], "")] |
	some v in object.get(spec, "volumes", [])
	object.get(v, "image", null) != null
}

had(spec) := images(spec.before) if input.review.operation == "UPDATE"

had(_) := set() if not input.review.operation == "UPDATE"

asked contains image if {
	not input.review.operation == "DELETE"
	some spec in specs
	some [_, _, image] in images(spec.now) - had(spec)
}

default namespace := ""

namespace := input.review.namespace

# keys are what the provider is asked, each with the image that it is about.
keys[key] := image if {
	some image in asked
	key := sprintf("%s %s", [namespace, image])
}

# The built-in is undefined when it does not reach the provider, in some versions.
default answer := {}

answer := external_data({
	"provider": object.get(input, ["parameters", "provider"], "assay"),
	"keys": [key | some key, _ in keys],
}) if count(keys) > 0

default trouble := "it gave no answer"

trouble := object.get(answer, "system_error", "it gave no answer")

errors(key) := {text | some [k, text] in object.get(answer, "errors", []); k == key}

values(key) := {value | some [k, value] in object.get(answer, "responses", []); k == key}

passes(key) if {
	count(errors(key)) == 0
	count(values(key)) == 1
	some value in values(key)
	value.decision in {"allowed", "warned"}
}

violation contains {"msg": msg} if {
	trouble != ""
	count(keys) > 0
	msg := sprintf("assay: nothing could be decided, so it is refused: %v", [trouble])
}

violation contains {"msg": msg} if {
	trouble == ""
	some key, image in keys
	not passes(key)
	why := errors(key) | {reason | some value in values(key); some reason in object.get(value, "reasons", [])}
	msg := sprintf("assay: image %s: %s", [image, concat("; ", [text | some text in said(why)])])
}

# Between this answer and the pull a tag can move: what was decided about is named
# by its digest.
violation contains {"msg": msg} if {
	trouble == ""
	not object.get(input, ["parameters", "tags"], false) == true
	some key, image in keys
	passes(key)
	some value in values(key)
	not pinned(image, value)
	msg := sprintf("assay: image %s is named by a tag, which can move: want %s", [image, object.get(value, "image", "its digest")])
}

said(why) := why if count(why) > 0

said(why) := {"the provider does not allow it and gives no reason"} if count(why) == 0

pinned(image, value) if {
	startswith(value.digest, "sha")
	endswith(image, concat("", ["@", value.digest]))
}
