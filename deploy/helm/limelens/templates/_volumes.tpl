{{- define "limelens.volumes" -}}
{{- $from := include "limelens.modelsFrom" . -}}
{{- $values := .Values -}}
{{- if eq $from "claim" -}}
- name: models
  persistentVolumeClaim: {claimName: {{ $values.models.existingClaim }}, readOnly: true}
{{- else if eq $from "image" -}}
- name: models
  image: {{- toYaml $values.models.image | nindent 4 }}
{{- else if eq $from "init" -}}
- name: models
  emptyDir: {sizeLimit: {{ $values.models.init.sizeLimit }}}
{{- end }}
# Mounted as whole folders, so that the running server sees renewed secrets.
{{- if $values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "limelens.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- with $values.tls.clientCa.existingSecret }}
- name: client-ca
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if $values.tokens.enabled }}
- name: access
  secret: {secretName: {{ include "limelens.tokensSecret" . }}, defaultMode: 0440}
{{- end }}
{{- if $values.models.requireSignatures }}
- name: keys
  configMap: {name: {{ include "limelens.fullname" . }}-keys}
{{- end }}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: {{ $values.tmpSize }}}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
